// Package fakeroot remembers of files what a file system cannot say of them while one unprivileged user does all the work: owners, modes
// that would lock that user out, devices, extended attributes.
//
// A Table belongs to one writable root filesystem. The snapshotter fills it from the layers below, the executor keeps it while processes
// run, and what it says at the end goes into the layer: it is the truth about a file, the file system only a carrier. A file without an entry
// is what it is on disk, but for its owner: the user that all files have is shown as root.
//
// Keys are inodes, so that a rename or a new hard link loses nothing. Inodes are used again: whoever creates a file drops or replaces what the
// Table has under its key.
package fakeroot

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"maps"
	"os"
	"reflect"
	"sync"

	"golang.org/x/sys/unix"
)

// Key names a file by device and inode, as stat(2) has them.
type Key struct{ Dev, Ino uint64 }

// KeyOf is the key of what st describes.
func KeyOf(st *unix.Stat_t) Key { return Key{uint64(st.Dev), st.Ino} }

// Meta is what is said of a file in place of what the file system has. It is complete: every field counts.
type Meta struct {
	UID, GID uint32
	// Mode is the permission bits with setuid, setgid and sticky (07777).
	Mode uint32
	// Type is S_IFCHR or S_IFBLK for a file, regular or a socket, that stands for a device, with its number in Rdev; otherwise 0.
	Type uint32
	Rdev uint64
	// Xattrs are the extended attributes under their full names. None of them is on disk. A Meta's map is never changed, only replaced.
	Xattrs map[string]string
}

// Table is safe for concurrent use.
type Table struct {
	uid, gid uint32
	real     Real

	mu     sync.RWMutex
	metas  map[Key]Meta
	shared map[Key]int // how many names each has
	same   map[Key]Key // further keys of files, see Same
}

// New returns an empty Table for files that this process's user owns.
func New() *Table {
	return &Table{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), metas: map[Key]Meta{}, shared: map[Key]int{}}
}

// Real are parts of what is said of files that the file system itself has, always: there a Table adds nothing, and what entries have does not count.
type Real struct{ Owners, Modes bool }

// Over returns an empty Table for files of which the file system can say as much as real.
func Over(real Real) *Table {
	t := New()
	t.real = real
	return t
}

// Real returns what the file system says itself.
func (t *Table) Real() Real { return t.real }

// Len is the number of entries.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.metas)
}

// Get returns the entry of a key.
func (t *Table) Get(k Key) (Meta, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	m, ok := t.metas[t.key(k)]
	return m, ok
}

// Same says that the file of a key goes by another one too, from now on: an overlay shows one that was copied up by the number that it had below,
// and, once it has a further name, by its own.
func (t *Table) Same(other, k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k = t.key(k); other == k {
		return
	}
	if m, ok := t.metas[other]; ok {
		t.metas[k] = m
		delete(t.metas, other)
	} else {
		delete(t.metas, k)
	}
	if t.same == nil {
		t.same = map[Key]Key{}
	}
	t.same[other] = k
}

// key is the one under which there is an entry for all keys of a file.
func (t *Table) key(k Key) Key {
	if one, ok := t.same[k]; ok {
		return one
	}
	return k
}

// Knows reports whether anything is said of a key: by an entry, or by Share.
func (t *Table) Knows(k Key) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if _, ok := t.metas[t.key(k)]; ok {
		return true
	}
	return t.shared[k] > 0
}

// Set makes m the entry of a key.
func (t *Table) Set(k Key, m Meta) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.metas[t.key(k)] = m
}

// Drop forgets a key: the file is gone.
func (t *Table) Drop(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.metas, t.key(k))
	delete(t.shared, k)
}

// Of returns what is said of the file that st, fresh from the file system, describes: its entry, or what takes the place of one.
func (t *Table) Of(st *unix.Stat_t) Meta {
	if m, ok := t.Get(KeyOf(st)); ok {
		return t.over(m, st)
	}
	return t.plain(st)
}

// plain is what is said of a file without an entry.
func (t *Table) plain(st *unix.Stat_t) Meta {
	m := Meta{UID: st.Uid, GID: st.Gid, Mode: st.Mode & 0o7777}
	if m.UID == t.uid {
		m.UID = 0
	}
	if m.GID == t.gid {
		m.GID = 0
	}
	return m
}

// over puts into an entry what the file system says better.
func (t *Table) over(m Meta, st *unix.Stat_t) Meta {
	if t.real.Owners {
		m.UID, m.GID = st.Uid, st.Gid
	}
	if t.real.Modes {
		m.Mode = st.Mode & 0o7777
	}
	return m
}

// Update changes what is said of the file that st, fresh from the file system, describes.
func (t *Table) Update(st *unix.Stat_t, f func(m *Meta)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.key(KeyOf(st))
	m, ok := t.metas[k]
	if !ok {
		m = t.plain(st)
	}
	f(&m)
	t.metas[k] = m
}

// Stat changes st, fresh from the file system, into what is said of the file. A file shared with other root filesystems has the names that it has here.
func (t *Table) Stat(st *unix.Stat_t) {
	k := KeyOf(st)
	m := t.Of(st)
	st.Uid, st.Gid, st.Mode = m.UID, m.GID, st.Mode&unix.S_IFMT|m.Mode
	if m.Type != 0 {
		st.Mode, st.Rdev, st.Size, st.Blocks = m.Type|m.Mode, m.Rdev, 0, 0
	}
	if names := t.Names(k); names > 0 {
		set(&st.Nlink, names)
	}
}

// set is for fields whose size is another on each machine.
func set[T uint32 | uint64](field *T, v int) { *field = T(v) }

// Share notes that a file is a hard link of one that other root filesystems have too, and how many names it has in its own. Its content, times
// and real mode must not be changed: whoever wants to puts a copy in its place first (Copied). As on an overlay, a copy takes the place of one
// name; where there are several, the others go on together, and whatever changes, a name or an owner, changes on a copy.
func (t *Table) Share(k Key, names int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shared[k] = names
}

// Shared reports whether Share was called for a key.
func (t *Table) Shared(k Key) bool { return t.Names(k) > 0 }

// Names is how many names a shared file has; 0 for one that is not shared.
func (t *Table) Names(k Key) int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.shared[k]
}

// Copied says that a file is a copy of another, and not shared. What is said of that one stays: it may have other names, or be open somewhere.
func (t *Table) Copied(from, to Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.metas, to)
	delete(t.shared, to)
	if m, ok := t.metas[from]; ok {
		t.metas[to] = m
	}
}

// Clone returns a copy.
func (t *Table) Clone() *Table {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return &Table{uid: t.uid, gid: t.gid, real: t.real, metas: maps.Clone(t.metas), shared: maps.Clone(t.shared), same: maps.Clone(t.same)}
}

// Merge carries over into t what was changed from before to after. None of them may be in use.
func (t *Table) Merge(before, after *Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range before.metas {
		if _, ok := after.metas[k]; !ok {
			delete(t.metas, k)
		}
	}
	for k, m := range after.metas {
		if old, ok := before.metas[k]; !ok || !reflect.DeepEqual(old, m) {
			t.metas[k] = m
		}
	}
}

// OnDevice says that all files are on one device, whose number may have been another when the Table was kept.
func (t *Table) OnDevice(dev uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	metas := make(map[Key]Meta, len(t.metas))
	for k, m := range t.metas {
		metas[Key{dev, k.Ino}] = m
	}
	t.metas = metas
}

// WithXattr returns xattrs with one more, or without it if value is nil.
func WithXattr(xattrs map[string]string, name string, value []byte) map[string]string {
	out := maps.Clone(xattrs)
	if value == nil {
		delete(out, name)
		return out
	}
	if out == nil {
		out = map[string]string{}
	}
	out[name] = string(value)
	return out
}

// RealMode is the mode that a file of said mode has on disk: whoever does the work can always read and write it, and nothing is setuid.
func RealMode(said uint32, dir bool) uint32 {
	if dir {
		return said&0o777 | 0o700
	}
	return said&0o777 | 0o600
}

// wire is the form in which a Table travels between two processes of one user.
type wire struct {
	Metas  map[Key]Meta
	Shared map[Key]int
}

// MarshalBinary implements encoding.BinaryMarshaler, for another process of the same user.
func (t *Table) MarshalBinary() ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(wire{t.metas, t.shared}); err != nil {
		return nil, fmt.Errorf("encoding owners: %w", err)
	}
	return b.Bytes(), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler: it replaces all entries.
func (t *Table) UnmarshalBinary(data []byte) error {
	var w wire
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(&w); err != nil {
		return fmt.Errorf("decoding owners: %w", err)
	}
	if w.Metas == nil {
		w.Metas = map[Key]Meta{}
	}
	if w.Shared == nil {
		w.Shared = map[Key]int{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.metas, t.shared = w.Metas, w.Shared
	return nil
}
