package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
)

// Files remembers the digests of a build context's files by their stat, so that a file that has not been touched need not be read again.
// What is remembered stays in the store and is read when it is asked for; it is written anew once per build, where there is something new. It is
// safe for concurrent use.
//
// A stat proves nothing about a file that was changed about when it was looked at: two changes within one tick of the file
// system's clock leave the same times. So only files are remembered whose times were old when the memory was opened,
// which is before any file was read.
type Files struct {
	cache *Cache
	root  string
	// opened is when the memory was opened.
	opened time.Time

	mu  sync.Mutex
	doc *store.Document // nil if there is none
	old *fileTable      // what doc holds; nil if that is nothing
	// news is set when something was asked for that can be remembered and is not.
	news bool
}

// racyMargin is how much older than the opening a file's times must be. FAT counts in 2 seconds; network file systems have clocks of their own.
const racyMargin = 3 * time.Second

// maxIdle is how many savings an entry survives without being asked for.
const maxIdle = 8

type fileEntry struct {
	stat fileStat
	sum  layer.Sum
	idle uint64
}

// fileStat is what must be equal for a file to be taken for unchanged. The times are in nanoseconds. ctime cannot be set by a program, so that
// a file with its mtime put back is noticed.
type fileStat struct {
	size, mtime, ctime int64
	ino, dev           uint64
}

// Files opens the memory of the files below a directory, which is named by its absolute path. One that is missing or damaged is empty. Save must be
// called.
func (c *Cache) Files(root string) (*Files, error) {
	f := &Files{cache: c, root: root, opened: time.Now()}
	doc, err := c.store.OpenRecord(filesBucket, root)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the digests of %s: %w", root, err)
	}
	f.doc = doc
	if t, err := openFileTable(doc, doc.Size()); err == nil {
		f.old = t
	}
	return f, nil
}

func statOf(fi fs.FileInfo) (fileStat, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return fileStat{}, false
	}
	return fileStat{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), ino: st.Ino, dev: uint64(st.Dev)}, true
}

// racy reports whether a file may still be changed without its stat changing.
func (f *Files) racy(st fileStat) bool {
	limit := f.opened.Add(-racyMargin).UnixNano()
	return st.mtime >= limit || st.ctime >= limit
}

// Digest returns the sum of the file at path, if one is remembered for exactly this stat. fi must come from the file
// itself (Lstat, or Stat of the open file), after Files was opened and before the file is read.
func (f *Files) Digest(path string, fi fs.FileInfo) (layer.Sum, bool) {
	st, ok := statOf(fi)
	if !ok {
		return layer.Sum{}, false
	}
	dir, base := ".", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, base = path[:i], path[i+1:]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.old != nil {
		if e, ok := f.old.lookup(fileKey(dir, base)); ok && e.stat == st {
			return e.sum, true
		}
	}
	f.news = f.news || !f.racy(st)
	return layer.Sum{}, false
}

// Save keeps what is new, in one record, and ends the use of f. seen calls visit with each file that Digest was asked for, with the stat it was asked
// with and its sum, sorted by directory and then by name, both as bytes: dir is "." or a path below it, fi has the name. What it would not be safe to
// remember is left out. Without anything new nothing is written. Files that no build has asked for in a while are forgotten.
func (f *Files) Save(seen func(visit func(dir string, fi fs.FileInfo, sum layer.Sum) error) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if f.news {
		err = f.cache.store.WriteCacheRecord(filesBucket, f.root, func(w io.Writer) error {
			m := merger{files: f, out: newFileTableWriter(w), old: f.old.entries()}
			if err := seen(m.visit); err != nil {
				return err
			}
			return m.end()
		})
	}
	if f.doc != nil {
		err = errors.Join(err, f.doc.Close())
	}
	f.doc, f.old, f.news = nil, nil, false
	if err != nil {
		return fmt.Errorf("keeping the digests of %s: %w", f.root, err)
	}
	return nil
}

// merger writes what a build has seen together with what was remembered before. Both come in the order of their keys.
type merger struct {
	files *Files
	out   *fileTableWriter
	old   *fileCursor
}

func (m *merger) visit(dir string, fi fs.FileInfo, sum layer.Sum) error {
	key := fileKey(dir, fi.Name())
	for m.old.more() && m.old.key() < key {
		if err := m.idle(); err != nil {
			return err
		}
	}
	st, ok := statOf(fi)
	if !ok {
		return nil
	}
	e := fileEntry{stat: st, sum: sum}
	if m.old.more() && m.old.key() == key {
		old := m.old.entry()
		if m.files.racy(st) && (old.stat != st || old.sum != sum) {
			return m.idle() // it was not this file that was asked for
		}
		m.old.next()
	} else if m.files.racy(st) {
		return nil
	}
	return m.out.add(key, e)
}

// idle keeps the next entry of before, which was not asked for, unless that has been so for long.
func (m *merger) idle() error {
	key, e := m.old.key(), m.old.entry()
	m.old.next()
	if e.idle++; e.idle > maxIdle {
		return nil
	}
	return m.out.add(key, e)
}

// end keeps what is left of before.
func (m *merger) end() error {
	for m.old.more() {
		if err := m.idle(); err != nil {
			return err
		}
	}
	return m.out.close()
}
