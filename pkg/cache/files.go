package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// Files remembers the digests of a build context's files by their stat, so that a file that has not been touched need not be read again.
// It is loaded and saved as a whole, once per build. It is safe for concurrent use.
//
// A stat proves nothing about a file that was changed about when it was looked at: two changes within one tick of the file
// system's clock leave the same times. So only files are remembered whose times were old when the memory was opened,
// which is before any file was read.
type Files struct {
	cache *Cache
	root  string
	// opened is when the memory was loaded.
	opened time.Time

	mu      sync.Mutex
	entries map[string]fileEntry
	// dirty is set when there is something to save.
	dirty bool
}

// racyMargin is how much older than the opening a file's times must be. FAT counts in 2 seconds; network file systems have clocks of their own.
const racyMargin = 3 * time.Second

// maxIdle is how many savings an entry survives without being asked for.
const maxIdle = 8

type fileEntry struct {
	stat fileStat
	sum  [32]byte
	idle uint64
	// used says that the path was found or added since the memory was opened.
	used bool
}

// fileStat is what must be equal for a file to be taken for unchanged. The times are in nanoseconds. ctime cannot be set by a program, so that
// a file with its mtime put back is noticed.
type fileStat struct {
	size, mtime, ctime int64
	ino, dev           uint64
}

// Files opens the memory of the files below a directory, which is named by its absolute path. One that is missing or damaged is empty.
func (c *Cache) Files(root string) (*Files, error) {
	f := &Files{cache: c, root: root, opened: time.Now(), entries: map[string]fileEntry{}}
	data, err := c.store.Record(filesBucket, root)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the digests of %s: %w", root, err)
	}
	if entries, err := decodeFiles(data); err == nil {
		f.entries = entries
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

// Digest returns the digest of the file at path, if one is remembered for exactly this stat. fi must come from the file
// itself (Lstat, or Stat of the open file).
func (f *Files) Digest(path string, fi fs.FileInfo) (digest.Digest, bool) {
	st, ok := statOf(fi)
	if !ok {
		return "", false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.entries[path]
	if !ok || e.stat != st {
		return "", false
	}
	if !e.used {
		e.used = true
		f.entries[path] = e
	}
	return digest.NewDigestFromBytes(digest.SHA256, e.sum[:]), true
}

// Put remembers the digest of the file at path, whose stat was taken after Files was opened and before the file was read. What it
// would not be safe to remember is left out.
func (f *Files) Put(path string, fi fs.FileInfo, d digest.Digest) {
	st, ok := statOf(fi)
	if !ok || d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return
	}
	limit := f.opened.Add(-racyMargin).UnixNano()
	if st.mtime >= limit || st.ctime >= limit {
		return
	}
	e := fileEntry{stat: st, used: true}
	if _, err := hex.Decode(e.sum[:], []byte(d.Encoded())); err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old, ok := f.entries[path]
	f.dirty = f.dirty || !ok || old.stat != e.stat || old.sum != e.sum
	e.idle = old.idle
	f.entries[path] = e
}

// Save keeps what was added, in one record. Without anything new it writes nothing. Files that no build has asked for in a while are
// forgotten.
func (f *Files) Save() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirty {
		return nil
	}
	for path, e := range f.entries {
		e.idle++
		if e.used {
			e.idle = 0
		}
		f.entries[path] = e
		if e.idle > maxIdle {
			delete(f.entries, path)
		}
	}
	if err := f.cache.store.PutCacheRecord(filesBucket, f.root, encodeFiles(f.entries)); err != nil {
		return fmt.Errorf("keeping the digests of %s: %w", f.root, err)
	}
	f.dirty = false
	return nil
}

// filesVersion begins an encoded memory. What begins otherwise is not read.
const filesVersion = "cairn files 1\n"

// encodeFiles writes the entries sorted by path: path length, path, size, mtime, ctime, inode, device, idle as varints, and the digest.
func encodeFiles(entries map[string]fileEntry) []byte {
	out := make([]byte, 0, len(filesVersion)+len(entries)*128)
	out = append(out, filesVersion...)
	for _, path := range slices.Sorted(maps.Keys(entries)) {
		e := entries[path]
		out = binary.AppendUvarint(out, uint64(len(path)))
		out = append(out, path...)
		for _, n := range []int64{e.stat.size, e.stat.mtime, e.stat.ctime} {
			out = binary.AppendVarint(out, n)
		}
		for _, n := range []uint64{e.stat.ino, e.stat.dev, e.idle} {
			out = binary.AppendUvarint(out, n)
		}
		out = append(out, e.sum[:]...)
	}
	return out
}

var errMalformed = errors.New("malformed")

func decodeFiles(data []byte) (map[string]fileEntry, error) {
	if len(data) < len(filesVersion) || string(data[:len(filesVersion)]) != filesVersion {
		return nil, errMalformed
	}
	d := decoder{data: data[len(filesVersion):]}
	// The shortest entry has 39 bytes.
	entries := make(map[string]fileEntry, len(d.data)/100)
	for len(d.data) > 0 && d.err == nil {
		path := string(d.bytes(d.uvarint()))
		e := fileEntry{stat: fileStat{size: d.varint(), mtime: d.varint(), ctime: d.varint(), ino: d.uvarint(), dev: d.uvarint()}, idle: d.uvarint()}
		copy(e.sum[:], d.bytes(uint64(len(e.sum))))
		entries[path] = e
	}
	return entries, d.err
}

// decoder takes values off the front of data; after an error everything is zero.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) bytes(n uint64) []byte {
	if d.err != nil || n > uint64(len(d.data)) {
		d.err = errMalformed
		return nil
	}
	out := d.data[:n]
	d.data = d.data[n:]
	return out
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.err = errMalformed
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.err = errMalformed
		return 0
	}
	d.data = d.data[n:]
	return v
}
