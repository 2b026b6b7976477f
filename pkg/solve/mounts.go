package solve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/copy"
	"github.com/cairn-build/cairn/pkg/fakeroot"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/snapshot"
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
		return append(in, st.fromInputs(ctx, chain, m.Source)...), nil
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

// fromInputs are what a mount from a stage or image adds: the content of what is shown of it, or all of it where that is the root. What cannot
// be found is said when it is mounted.
func (st *stage) fromInputs(ctx context.Context, chain []layer.Layer, source string) []cache.Input {
	if path.Clean("/"+source) != "/" {
		if in, err := st.shownInputs(ctx, chain, source); err == nil {
			return in
		}
	}
	return []cache.Input{{Name: "from", Value: chainID(chain).String()}, {Name: "source", Value: source}}
}

// shownInputs are the content of a part of a root filesystem and what the top of it is.
func (st *stage) shownInputs(ctx context.Context, chain []layer.Layer, source string) ([]cache.Input, error) {
	t, err := st.tree(ctx, chain)
	if err != nil {
		return nil, err
	}
	sum, err := copy.Digest(ctx, copy.Request{Sources: []copy.Source{{Tree: t, Path: source, Literal: true}}, Dest: shownAt})
	if err != nil {
		return nil, err
	}
	name, err := layer.Resolve(t, source)
	if err != nil {
		return nil, err
	}
	top, err := t.Lstat(name)
	if err != nil {
		return nil, err
	}
	return []cache.Input{
		{Name: "content", Value: sum.String()},
		{Name: "top", Value: fmt.Sprintf("%c %o %d:%d", top.Type, top.Mode, top.UID, top.GID)},
	}, nil
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
	// mountless is a place in which nothing can be mounted: sources are descriptors there, for an executor that can do with those.
	mountless bool
	// owners says whose the files are that are made here for the executor, where no file can have another owner; else nil.
	owners  *fakeroot.Table
	caches  map[string]*fakeroot.Table // of cache mounts, by key
	private string                     // a directory in memory, for what must not reach a disk
	undo    []func() error
}

// newMounter prepares for the RUN over a root filesystem.
func newMounter(s *solver, rw snapshot.RWLayer) *mounter {
	m := &mounter{solver: s, caches: map[string]*fakeroot.Table{}}
	_, m.mountless = s.Executor.(executor.Mountless)
	if t := snapshot.OwnersOf(rw); t != nil && !t.Real().Owners {
		m.owners = fakeroot.Over(t.Real())
	}
	return m
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
	if err := m.lockCaches(ctx, list); err != nil {
		return nil, nil, err
	}
	for _, pm := range list {
		mnt := executor.Mount{Type: executor.Bind, Target: pm.Target, ReadOnly: pm.ReadOnly, Owners: m.owners}
		switch pm.Type {
		case "bind":
			mnt.Source, mnt.Owners, err = m.bind(ctx, pm)
		case "cache":
			mnt.Source, mnt.Owners, err = m.cache(ctx, pm)
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
func (m *mounter) bind(ctx context.Context, pm plan.Mount) (string, *fakeroot.Table, error) {
	chain, source, err := m.shown(ctx, pm)
	if err != nil {
		return "", nil, err
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

// writable mounts a throw-away layer over chain and returns where source is in it, and whose its files are.
func (m *mounter) writable(ctx context.Context, chain []layer.Layer, source string) (string, *fakeroot.Table, error) {
	ro, err := m.Snapshotter.Open(ctx, chain)
	if err != nil {
		return "", nil, err
	}
	m.undo = append(m.undo, ro.Release)
	rw, err := ro.NewRWLayer()
	if err != nil {
		return "", nil, err
	}
	m.undo = append(m.undo, rw.Release)
	at, err := m.within(rw.Root(), source)
	return at, snapshot.OwnersOf(rw), err
}

// within makes source of root mountable by a path that nobody else can change: it is resolved inside root to a descriptor, and that is bound to a
// place of its own, or kept, so that no link swapped in between leads out (B5, B10).
func (m *mounter) within(root, source string) (string, error) {
	f, err := pathrs.OpenInRoot(root, source)
	if err != nil {
		return "", fmt.Errorf("finding source %s: %w", source, err)
	}
	if m.mountless {
		return m.keep(f), nil
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

// keep holds a file open until the mounts are taken away, and returns a name by which the executor finds it.
func (m *mounter) keep(f *os.File) string {
	m.undo = append(m.undo, f.Close)
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
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
		rec.Layer, err = m.write(ctx, res.Write, layer.Compression{Type: "uncompressed"})
		if err := errors.Join(err, res.Close()); err != nil {
			return nil, err
		}
		if err := m.Cache.Put(ctx, key, rec); err != nil {
			return nil, err
		}
	}
	return []layer.Layer{rec.Layer}, nil
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
	if m.mountless {
		return m.memfd(pm, data, mode)
	}
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
	return f.Name(), m.own(f.Name(), pm, mode)
}

// memfd is file where no tmpfs can be mounted: a file without a name.
func (m *mounter) memfd(pm plan.Mount, data []byte, mode os.FileMode) (string, error) {
	// The kernel's name of it is unique, since the executor knows files by their names.
	fd, err := unix.MemfdCreate(fmt.Sprintf("cairn-mount-%d", len(m.undo)), unix.MFD_CLOEXEC)
	if err != nil {
		return "", os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	name := m.keep(f)
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	return name, m.own(name, pm, mode)
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
	if m.mountless { // for sockets: files with a content are not put there
		m.private = dir
		return dir, nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return "", fmt.Errorf("mounting a tmpfs for secrets: %w", err)
	}
	m.undo = append(m.undo, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	m.private = dir
	return dir, nil
}

// own gives a file or directory the owner and mode that a mount asks for; where no file can have another owner, the table says it.
func (m *mounter) own(name string, pm plan.Mount, mode os.FileMode) error {
	return own(name, m.owners, pm, mode)
}

func own(name string, owners *fakeroot.Table, pm plan.Mount, perm os.FileMode) error {
	var uid, gid uint64
	mode := uint32(perm)
	if pm.UID != nil {
		uid = *pm.UID
	}
	if pm.GID != nil {
		gid = *pm.GID
	}
	if pm.Mode != nil {
		mode = uint32(*pm.Mode & 0o7777)
	}
	if owners == nil {
		return errors.Join(os.Chown(name, int(uid), int(gid)), unix.Chmod(name, mode))
	}
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	owners.Set(fakeroot.KeyOf(&st), fakeroot.Meta{UID: uint32(uid), GID: uint32(gid), Mode: mode})
	if owners.Real().Modes {
		return unix.Chmod(name, mode)
	}
	return unix.Chmod(name, fakeroot.RealMode(mode, st.Mode&unix.S_IFMT == unix.S_IFDIR))
}
