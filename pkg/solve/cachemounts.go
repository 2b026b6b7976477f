package solve

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/containerd/continuity/fs"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// cache returns the lasting directory of a cache mount, and whose its files are.
func (m *mounter) cache(ctx context.Context, pm plan.Mount) (string, *fakeroot.Table, error) {
	key, err := m.cacheKey(pm)
	if err != nil {
		return "", nil, err
	}
	if !pm.From.IsScratch() {
		return m.seededCache(ctx, key, pm)
	}
	dir, owners, err := m.cacheDir(ctx, key, pm)
	if err != nil {
		return "", nil, err
	}
	source, err := m.cacheSource(dir, pm)
	return source, owners, err
}

// lockCaches takes the locks of sharing=locked for all mounts of a RUN: each once, and everybody in one order, so that nobody waits for himself or
// for one who waits for him.
func (m *mounter) lockCaches(ctx context.Context, list []plan.Mount) error {
	var keys []string
	for _, pm := range list {
		if pm.Type == "cache" && pm.Sharing == "locked" {
			keys = append(keys, pm.CacheID)
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		unlock, err := m.Store.Lock(ctx, "cache-mount/"+key)
		if err != nil {
			return err
		}
		m.undo = append(m.undo, func() error { unlock(); return nil })
	}
	return nil
}

// cacheKey returns the key of a cache mount; one that is private is locked.
func (m *mounter) cacheKey(pm plan.Mount) (key string, err error) {
	key = pm.CacheID
	switch pm.Sharing {
	case "", "shared":
	case "locked": // by lockCaches
	case "private":
		n := 0
		for ; ; n++ {
			unlock, ok, err := m.Store.TryLock(fmt.Sprintf("cache-mount/%s#%d", key, n))
			if err != nil {
				return "", err
			}
			if ok {
				m.undo = append(m.undo, func() error { unlock(); return nil })
				break
			}
		}
		if n > 0 {
			key = fmt.Sprintf("%s#%d", key, n)
		}
	default:
		return "", fmt.Errorf("unknown sharing mode %q", pm.Sharing)
	}
	return key, nil
}

// cacheDir returns the directory of a cache mount.
func (m *mounter) cacheDir(ctx context.Context, key string, pm plan.Mount) (string, *fakeroot.Table, error) {
	return m.lasting(ctx, key, func(dir string, owners *fakeroot.Table) error {
		if err := own(dir, owners, pm, 0o755); err != nil {
			return err
		}
		if m.FillCache != nil {
			m.FillCache(ctx, pm.CacheID, dir)
		}
		return nil
	})
}

// lasting returns the directory of a key and whose its files are. One that is not there is made by fill, beside: whoever else has this mount
// sees all of it or waits, and who is killed meanwhile leaves nothing of it. While it is filled nobody may exchange a directory of it for a link.
func (m *mounter) lasting(ctx context.Context, key string, fill func(dir string, owners *fakeroot.Table) error) (string, *fakeroot.Table, error) {
	unlock, err := m.Store.Lock(ctx, "cache-mount-fill/"+key)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	dir, err := m.Store.FindCacheDir(key)
	if errors.Is(err, iofs.ErrNotExist) {
		dir, err = m.newCache(key, fill)
	}
	if err != nil {
		return "", nil, err
	}
	owners, err := m.cacheOwners(key, dir)
	return dir, owners, err
}

// newCache makes the directory of a key.
func (m *mounter) newCache(key string, fill func(dir string, owners *fakeroot.Table) error) (string, error) {
	tmp, err := m.Store.TempDir("cache-")
	if err != nil {
		return "", err
	}
	var owners *fakeroot.Table
	if m.owners != nil {
		owners = fakeroot.Over(m.owners.Real())
	}
	err = fill(tmp, owners)
	if err == nil && owners != nil { // in place of what another directory of this name had
		err = m.putOwners(key, owners)
	}
	if err != nil {
		return "", errors.Join(err, m.Store.RemoveTemp(tmp))
	}
	return m.Store.KeepCacheDir(key, tmp)
}

// ownersBucket keeps, for each cache mount, whose its files are said to be.
const ownersBucket = "cachemount-owners"

// cacheOwners returns the table of a cache mount, nil where files have owners of their own. What changes in it is kept when the mounts are taken
// away.
func (m *mounter) cacheOwners(key, dir string) (*fakeroot.Table, error) {
	if m.owners == nil {
		return nil, nil
	}
	if t := m.caches[key]; t != nil {
		return t, nil // mounted at two places
	}
	t, err := m.loadOwners(key, dir)
	if err != nil {
		return nil, err
	}
	before := t.Clone()
	m.caches[key] = t
	m.undo = append(m.undo, func() error { return m.keepOwners(key, dir, before, t) })
	return t, nil
}

// loadOwners reads the table of a cache mount. One that is damaged is none: a cache may be lost.
func (m *mounter) loadOwners(key, dir string) (*fakeroot.Table, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	t := fakeroot.Over(m.owners.Real())
	data, err := m.Store.Record(ownersBucket, key)
	if err != nil || t.UnmarshalBinary(data) != nil {
		return fakeroot.Over(m.owners.Real()), nil
	}
	t.OnDevice(uint64(st.Dev))
	return t, nil
}

// keepOwners adds what a RUN has changed to what others may have kept meanwhile.
func (m *mounter) keepOwners(key, dir string, before, after *fakeroot.Table) error {
	unlock, err := m.Store.Lock(context.Background(), "cache-mount-owners/"+key)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := m.loadOwners(key, dir)
	if err != nil {
		return err
	}
	now.Merge(before, after)
	return m.putOwners(key, now)
}

func (m *mounter) putOwners(key string, t *fakeroot.Table) error {
	data, err := t.MarshalBinary()
	if err != nil {
		return err
	}
	return m.Store.PutCacheRecord(ownersBucket, key, data)
}

// cacheSource is the directory inside a cache mount that is shown; it is made when missing.
func (m *mounter) cacheSource(dir string, pm plan.Mount) (string, error) {
	if pm.Source == "" || pm.Source == "/" {
		return dir, nil
	}
	if err := pathrs.MkdirAll(dir, pm.Source, 0o755); err != nil {
		return "", fmt.Errorf("making %s in cache mount: %w", pm.Source, err)
	}
	return m.within(dir, pm.Source)
}

// seededCache is a cache mount that starts as a copy of files of a context, stage or image.
func (m *mounter) seededCache(ctx context.Context, key string, pm plan.Mount) (string, *fakeroot.Table, error) {
	chain, source, err := m.shown(ctx, pm)
	if err != nil {
		return "", nil, err
	}
	key += "\x00" + chainID(chain).String() + "\x00" + source
	return m.lasting(ctx, key, func(dir string, owners *fakeroot.Table) error {
		from, said, err := m.writable(ctx, chain, source)
		if err == nil {
			err = seed(dir, owners, from, said)
		}
		if err != nil {
			return fmt.Errorf("filling cache mount %s: %w", pm.Target, err)
		}
		return nil
	})
}

// seed makes an empty directory a copy of another one.
func seed(dir string, owners *fakeroot.Table, from string, said *fakeroot.Table) error {
	if err := fs.CopyDir(dir, from); err != nil || owners == nil {
		return err
	}
	return copyOwners(owners, dir, said, from)
}

// copyOwners says of a copy what is said of the original.
func copyOwners(to *fakeroot.Table, copied string, from *fakeroot.Table, original string) error {
	return filepath.WalkDir(original+"/.", func(name string, _ iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(original, name)
		if err != nil {
			return err
		}
		var was, is unix.Stat_t
		if err := errors.Join(unix.Lstat(name, &was), unix.Lstat(filepath.Join(copied, rel), &is)); err != nil {
			return err
		}
		if said, ok := from.Get(fakeroot.KeyOf(&was)); ok {
			to.Set(fakeroot.KeyOf(&is), said)
		}
		return nil
	})
}
