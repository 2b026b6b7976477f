package solve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/copy"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/containerd/continuity/fs"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// mountInputs is what a mount adds to the key of its RUN.
func (st *stage) mountInputs(ctx context.Context, m plan.Mount) ([]cache.Input, error) {
	in := []cache.Input{
		{Name: "mount", Value: m.Type}, {Name: "target", Value: m.Target}, {Name: "readonly", Value: strconv.FormatBool(m.ReadOnly)},
		{Name: "id", Value: m.ID + m.CacheID}, {Name: "env", Value: m.Env}, {Name: "size", Value: strconv.FormatInt(m.Size, 10)},
		{Name: "inline", Value: string(m.Inline)}, {Name: "uid", Value: optional(m.UID)}, {Name: "gid", Value: optional(m.GID)},
		{Name: "mode", Value: optional(m.Mode)},
	}
	if m.From.IsScratch() {
		return append(in, cache.Input{Name: "source", Value: m.Source}), nil
	}
	if m.From.Context == nil {
		chain, err := st.origin(ctx, m.From)
		if err != nil {
			return nil, err
		}
		return append(in, cache.Input{Name: "from", Value: chainID(chain).String()}, cache.Input{Name: "source", Value: m.Source}), nil
	}
	req, err := st.contextRequest(ctx, *m.From.Context, m.Source)
	if err != nil {
		return nil, err
	}
	sum, err := copy.Digest(ctx, req)
	if err != nil {
		return nil, err
	}
	return append(in, cache.Input{Name: "content", Value: sum.String()}), nil
}

// optional is a number that may not be given.
func optional(n *uint64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatUint(*n, 10)
}

// shownAt is where contextRequest puts what is to be mounted.
const shownAt = "/source"

// contextRequest copies the part of a build context that a mount shows.
func (s *solver) contextRequest(ctx context.Context, c plan.Context, source string) (copy.Request, error) {
	t, err := s.Contexts.Context(ctx, c)
	if err != nil {
		return copy.Request{}, err
	}
	return copy.Request{Sources: []copy.Source{{Tree: t, Path: literal(source)}}, Dest: shownAt}, nil
}

// literal makes a pattern that matches one name only.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

// mounter prepares the mounts of one RUN and takes them away again.
type mounter struct {
	*solver
	private string // a directory in memory, for what must not reach a disk
	undo    []func() error
}

// close takes everything away, last first.
func (m *mounter) close() error {
	var errs []error
	for i := len(m.undo) - 1; i >= 0; i-- {
		errs = append(errs, m.undo[i]())
	}
	m.undo = nil
	return errors.Join(errs...)
}

// mounts returns what the executor is to mount, and the environment variables that secrets were asked for in.
func (m *mounter) mounts(ctx context.Context, list []plan.Mount) (out []executor.Mount, env []string, err error) {
	for _, pm := range list {
		mnt := executor.Mount{Type: executor.Bind, Target: pm.Target, ReadOnly: pm.ReadOnly}
		switch pm.Type {
		case "bind":
			mnt.Source, err = m.bind(ctx, pm)
		case "cache":
			mnt.Source, err = m.cache(ctx, pm)
		case "tmpfs":
			mnt.Type, mnt.Size = executor.Tmpfs, pm.Size
		case "inline":
			mnt.Source, err = m.file(pm, pm.Inline, 0o755)
		case "secret":
			var value string
			value, mnt.Source, err = m.secret(pm)
			if pm.Env != "" && value != "" {
				env = append(env, pm.Env+"="+value)
			}
		case "ssh":
			mnt.Source, err = m.agent(pm)
		default:
			err = fmt.Errorf("unknown mount type %q", pm.Type)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("mounting %s: %w", pm.Target, err)
		}
		if mnt.Type == executor.Tmpfs || mnt.Source != "" && mnt.Target != "" {
			out = append(out, mnt)
		}
	}
	return out, env, nil
}

// bind shows a directory or file of a context, stage or image. What is written there is dropped with its layer.
func (m *mounter) bind(ctx context.Context, pm plan.Mount) (string, error) {
	chain, source, err := m.shown(ctx, pm)
	if err != nil {
		return "", err
	}
	return m.writable(ctx, chain, source)
}

// shown is the chain of layers that a mount shows files of, and where they are in it.
func (m *mounter) shown(ctx context.Context, pm plan.Mount) (chain []layer.Layer, source string, err error) {
	if pm.From.Context != nil {
		chain, err = m.contextChain(ctx, *pm.From.Context, pm.Source)
		return chain, shownAt, err
	}
	chain, err = m.origin(ctx, pm.From)
	return chain, pm.Source, err
}

// writable mounts a throw-away layer over chain and returns where source is in it.
func (m *mounter) writable(ctx context.Context, chain []layer.Layer, source string) (string, error) {
	ro, err := m.Snapshotter.Open(ctx, chain)
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, ro.Release)
	rw, err := ro.NewRWLayer()
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, rw.Release)
	return m.within(rw.Root(), source)
}

// within makes source of root mountable by a path that nobody else can change: it is resolved inside root to a descriptor, and that is bound to a
// place of its own, so that no link swapped in between leads out (B5, B10).
func (m *mounter) within(root, source string) (string, error) {
	f, err := pathrs.OpenInRoot(root, source)
	if err != nil {
		return "", fmt.Errorf("finding source %s: %w", source, err)
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	at, err := m.place(st.IsDir())
	if err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("binding source %s: %w", source, err)
	}
	m.undo = append(m.undo, func() error { return unix.Unmount(at, unix.MNT_DETACH) })
	return at, nil
}

// place makes an empty directory or file to mount on.
func (m *mounter) place(dir bool) (string, error) {
	mem, err := m.memory()
	if err != nil {
		return "", err
	}
	if dir {
		return os.MkdirTemp(mem, "mount-")
	}
	f, err := os.CreateTemp(mem, "mount-")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// contextChain makes the part of a build context below source mountable: as a layer of its own, kept by its content.
func (m *mounter) contextChain(ctx context.Context, c plan.Context, source string) ([]layer.Layer, error) {
	req, err := m.contextRequest(ctx, c, source)
	if err != nil {
		return nil, err
	}
	sum, err := copy.Digest(ctx, req)
	if err != nil {
		return nil, err
	}
	key := cache.NewKey("context", cache.Input{Name: "content", Value: sum.String()})
	rec, hit, err := m.Cache.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if !hit {
		res, err := copy.Entries(ctx, req)
		if err != nil {
			return nil, err
		}
		rec.Layer, err = m.write(ctx, res.Items, layer.Compression{Type: "uncompressed"})
		if err := errors.Join(err, res.Close()); err != nil {
			return nil, err
		}
		if err := m.Cache.Put(ctx, key, rec); err != nil {
			return nil, err
		}
	}
	return []layer.Layer{rec.Layer}, nil
}

// cache returns the lasting directory of a cache mount, locked as its sharing mode wants.
func (m *mounter) cache(ctx context.Context, pm plan.Mount) (string, error) {
	key := pm.CacheID
	switch pm.Sharing {
	case "", "shared":
	case "locked":
		unlock, err := m.Store.Lock(ctx, "cache-mount/"+key)
		if err != nil {
			return "", err
		}
		m.undo = append(m.undo, func() error { unlock(); return nil })
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
	if !pm.From.IsScratch() {
		return m.seededCache(ctx, key, pm)
	}
	dir, err := m.cacheDir(ctx, key, pm)
	if err != nil {
		return "", err
	}
	return m.cacheSource(dir, pm)
}

// cacheDir returns the directory of a cache mount. A new one is filled, where that is wanted, before anybody sees it.
func (m *mounter) cacheDir(ctx context.Context, key string, pm plan.Mount) (string, error) {
	if m.FillCache != nil {
		unlock, err := m.Store.Lock(ctx, "cache-mount-fill/"+key)
		if err != nil {
			return "", err
		}
		defer unlock()
	}
	dir, created, err := m.Store.CacheDir(key)
	if err != nil || !created {
		return dir, err
	}
	if err := own(dir, pm, 0o755); err != nil {
		return "", err
	}
	if m.FillCache != nil {
		m.FillCache(ctx, pm.CacheID, dir)
	}
	return dir, nil
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
func (m *mounter) seededCache(ctx context.Context, key string, pm plan.Mount) (string, error) {
	chain, source, err := m.shown(ctx, pm)
	if err != nil {
		return "", err
	}
	dir, created, err := m.Store.CacheDir(key + "\x00" + chainID(chain).String() + "\x00" + source)
	if err != nil || !created {
		return dir, err
	}
	from, err := m.writable(ctx, chain, source)
	if err != nil {
		return "", err
	}
	if err := fs.CopyDir(dir, from); err != nil {
		return "", fmt.Errorf("filling cache mount %s: %w", pm.Target, err)
	}
	return dir, nil
}

// secret returns a secret's value and, unless it is only wanted as a variable, a file in memory that holds it.
func (m *mounter) secret(pm plan.Mount) (value, file string, err error) {
	s, ok := m.Run.Secrets[pm.ID]
	if !ok {
		if pm.Required {
			return "", "", fmt.Errorf("secret %s: not found (give it with --secret id=%s,src=FILE)", pm.ID, pm.ID)
		}
		return "", "", nil
	}
	if pm.Env != "" {
		value = string(s.Reveal())
	}
	if pm.Target != "" {
		file, err = m.file(pm, s.Reveal(), 0o400)
	}
	return value, file, err
}

// file puts data into a file in memory with the mount's mode and owner.
func (m *mounter) file(pm plan.Mount, data []byte, mode os.FileMode) (string, error) {
	dir, err := m.memory()
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "file-")
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	return f.Name(), own(f.Name(), pm, mode)
}

// memory makes the RUN's directory on a tmpfs of its own.
func (m *mounter) memory() (string, error) {
	if m.private != "" {
		return m.private, nil
	}
	dir, err := m.Store.TempDir("run-")
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, func() error { return os.RemoveAll(dir) })
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return "", fmt.Errorf("mounting a tmpfs for secrets: %w", err)
	}
	m.undo = append(m.undo, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	m.private = dir
	return dir, nil
}

// own gives a file or directory the owner and mode that a mount asks for.
func own(name string, pm plan.Mount, mode os.FileMode) error {
	uid, gid := 0, 0
	if pm.UID != nil {
		uid = int(*pm.UID)
	}
	if pm.GID != nil {
		gid = int(*pm.GID)
	}
	if err := os.Chown(name, uid, gid); err != nil {
		return err
	}
	if pm.Mode != nil {
		mode = os.FileMode(*pm.Mode & 0o777)
		return unix.Chmod(name, uint32(*pm.Mode&0o7777))
	}
	return os.Chmod(name, mode)
}
