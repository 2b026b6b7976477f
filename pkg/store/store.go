// Package store is what cairn keeps on disk: blobs, what is known of layers, snapshot directories, records and names.
//
//	ROOT/lock                     flock: shared by everyone who works, exclusive for garbage collection
//	ROOT/blobs/sha256/HEX         content: compressed layers, configs, manifests; the name is the digest
//	ROOT/layers/HEX[.index]       what is known of the layer with that DiffID: its Layer value and Index
//	ROOT/snapshots/STAMP/HEX      the directory of one unpacked layer, named by the ChainID it completes
//	ROOT/records/BUCKET/HEX       small JSON documents by key: cache records, stat indexes
//	ROOT/refs/NAME                a name ("localhost/app:v1", escaped) → the descriptor of a manifest or index
//	ROOT/cachedirs/HEX            the lasting directories of RUN cache mounts
//	ROOT/locks/HEX                named locks between processes: further names of SESSION/lock
//	ROOT/tmp/SESSION              what one open Store is writing; removed by difference at the next start
//
// Invariants, as in docs/architecture.md: a ref names an existing manifest; a record names existing layers; a blob's name is
// its digest. Write order: blob, snapshot, record, ref; delete in reverse; read refs first. Everything is written by one protocol: a
// temporary file in the same file system → write → check length and digest → rename. What must outlive a power cut is synced, file and
// directory: refs and records when they are written, blobs when a ref is set that leads to them.
//
// A session is one directory in tmp on which its Store holds a flock. The kernel gives the lock back when the process dies, however it
// dies; so a session that can be locked belongs to nobody and is removed by the next process that opens the store.
//
// Refs, with all that is held of what they lead to, and records survive a power cut once the call that wrote them has returned. Other blobs,
// indexes of layers, snapshot directories and records of caches may not: they can be made again. A blob lost half is found by its digest. An index or record lost half is found by its checksum. Snapshots stand below a stamp made of the boot id and the id
// mappings of the user namespace, so that those of another boot, or with owners meant for another mapping, are never seen.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cairn-build/cairn/pkg/hint"

	"golang.org/x/sys/unix"
)

// ErrBusy is what Prune returns while somebody else has the store open, or this Store has something half written.
var ErrBusy = errors.New("store is in use")

// ErrCorrupt is wrapped by the errors for content that is not what its digest or checksum says.
var ErrCorrupt = errors.New("content is damaged")

// The directories of a store.
const (
	blobsDir     = "blobs"
	layersDir    = "layers"
	snapshotsDir = "snapshots"
	recordsDir   = "records"
	refsDir      = "refs"
	cacheDirsDir = "cachedirs"
	locksDir     = "locks"
	tmpDir       = "tmp"
)

// lockedName is the name of Store.locked in the session.
const lockedName = "lock"

// Store is an open store. It is safe for concurrent use, also by several processes.
type Store struct {
	root string
	// stamp names the snapshots that this process may use.
	stamp string
	// boot is when the machine was started.
	boot time.Time
	// lock is ROOT/lock with a shared flock.
	lock *os.File

	locks   keyedMutex
	indexes sharedIndexes
	sweeper sync.WaitGroup
	// writers counts the blobs being written, for Prune.
	writers atomic.Int64
	// buffers are of blobs that are written.
	buffers sync.Pool

	mu sync.Mutex
	// session is this Store's locked directory below tmp, nil until something is written.
	session *os.File
	// locked is the file to which TryLock gives names, nil until there was a lock.
	locked *os.File
	// temps are the temporary directories that were handed out and not given back.
	temps  map[string]bool
	closed bool
}

// Open opens or creates the store below root (mode 0700) and takes its shared lock. A root that is a symlink, belongs to
// somebody else or holds other files is refused. What dead processes left unfinished is removed, in the background; snapshots of an earlier
// boot only when no one else has the store open.
func Open(root string) (*Store, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if err := makeRoot(root); err != nil {
		return nil, fmt.Errorf("opening store %s: %w", root, err)
	}
	stamp, err := snapshotStamp()
	if err != nil {
		return nil, fmt.Errorf("opening store %s: %w", root, err)
	}
	s := &Store{root: root, stamp: stamp, boot: bootTime(), temps: map[string]bool{}}
	if s.lock, err = openLockFile(s.path("lock")); err != nil {
		return nil, fmt.Errorf("opening store %s: %w", root, err)
	}
	if err := s.start(); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("opening store %s: %w", root, err)
	}
	return s, nil
}

// makeRoot creates root or checks that it is ours: a real directory, owned by the caller, closed to everyone else, in which there is a store or
// nothing.
func makeRoot(root string) error {
	if err := os.MkdirAll(filepath.Dir(root), 0o700); err != nil {
		return err
	}
	err := makeDir(root)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.OpenFile(root, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		if to, err := filepath.EvalSymlinks(root); err == nil && to != root {
			return hint.With(errors.New("it is a symlink"), "--root "+to)
		}
		return errors.New("it is not a directory")
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err != nil {
		return err
	}
	if uid := fi.Sys().(*syscall.Stat_t).Uid; int(uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, not to %d", uid, os.Geteuid())
	}
	if err := vacant(dir, fi.Mode()); err != nil {
		return err
	}
	if fi.Mode().Perm() != 0o700 {
		return dir.Chmod(0o700)
	}
	return nil
}

// vacant refuses a directory that is neither a store nor free to become one: what is named by mistake must keep its files and its mode.
func vacant(dir *os.File, mode fs.FileMode) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	if slices.Contains(names, "lock") && slices.Contains(names, blobsDir) {
		return nil
	}
	const other = "--root names a directory for cairn alone, which may be a new one in there"
	if mode.Perm()&0o022 != 0 {
		return hint.With(fmt.Errorf("others can write to it (mode %03o)", mode.Perm()), other)
	}
	for _, n := range names {
		switch n {
		case "lock", "containers", "lost+found": // of a store begun, of a fresh file system
		default:
			return hint.With(fmt.Errorf("it holds other files, such as %q", n), other)
		}
	}
	return nil
}

// start makes the directories, clears what is stale and leaves the shared lock held.
func (s *Store) start() error {
	alone, err := tryFlock(s.lock, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if !alone {
		if err := flockWait(s.lock, unix.LOCK_SH); err != nil {
			return err
		}
	}
	for _, dir := range []string{
		blobsDir, blobsDir + "/sha256", layersDir, snapshotsDir, snapshotsDir + "/" + s.stamp, recordsDir, refsDir, cacheDirsDir,
		locksDir, tmpDir,
	} {
		if err := makeStoreDir(s.path(dir)); err != nil {
			return err
		}
	}
	if alone {
		s.retireSnapshots()
		if err := flockWait(s.lock, unix.LOCK_SH); err != nil {
			return err
		}
	}
	// What cannot be removed now (files of ids that are not mapped here) is left for a process that can.
	s.sweeper.Go(func() { _ = s.sweepTemp() })
	return nil
}

// makeDir makes one directory with mode 0700 whatever the umask is.
func makeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	return os.Chmod(path, 0o700)
}

// makeStoreDir makes one directory of the store if it is missing.
func makeStoreDir(path string) error {
	err := makeDir(path)
	if errors.Is(err, fs.ErrExist) {
		fi, err := os.Lstat(path)
		if err == nil && !fi.IsDir() {
			return fmt.Errorf("%s is not a directory", path)
		}
		return err
	}
	return err
}

// Close removes what this Store has written and not committed, and gives up the lock. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.sweeper.Wait()
	var err error
	if s.session != nil {
		err = removeTree(s.session.Name())
		s.session.Close()
	}
	if s.locked != nil {
		s.locked.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// Root is the store's directory.
func (s *Store) Root() string { return s.root }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}
