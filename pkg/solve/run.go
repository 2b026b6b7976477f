package solve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"
)

// run prepares a RUN. Its key is the root filesystem it starts from, the command with everything the command can see, and the content of what
// is mounted; never a secret's value, a cache mount's content, or a proxy.
func (st *stage) run(ctx context.Context, r *plan.Run) (work, error) {
	in := []cache.Input{
		{Name: "root", Value: st.root.String()},
		{Name: "platform", Value: platformString(st.plan.Platform)},
		{Name: "dir", Value: r.Dir}, {Name: "user", Value: r.User},
		{Name: "network", Value: r.Network}, {Name: "security", Value: r.Security},
	}
	for _, a := range r.Args {
		in = append(in, cache.Input{Name: "arg", Value: a})
	}
	for _, e := range r.Env {
		in = append(in, cache.Input{Name: "env", Value: e})
	}
	if st.Run.Hostname != "" {
		in = append(in, cache.Input{Name: "hostname", Value: st.Run.Hostname})
	}
	for _, h := range st.Run.Hosts {
		in = append(in, cache.Input{Name: "host", Value: h.Name + "=" + h.IP.String()})
	}
	for _, u := range st.Run.Ulimits {
		in = append(in, cache.Input{Name: "ulimit", Value: fmt.Sprint(u.Name, "=", u.Soft, ":", u.Hard)})
	}
	if st.Run.ShmSize != 0 {
		in = append(in, cache.Input{Name: "shm-size", Value: strconv.FormatInt(st.Run.ShmSize, 10)})
	}
	if _, secrets := st.mounted(r); st.Run.AllowSecretInLayer && len(secrets) > 0 {
		// What was made with that leave is no answer to who does not give it.
		in = append(in, cache.Input{Name: "secret in layer", Value: "allowed"})
	}
	for _, m := range r.Mounts {
		mi, err := st.mountInputs(ctx, m)
		if err != nil {
			return work{}, err
		}
		in = append(in, mi...)
	}
	return work{
		key: cache.NewKey("run", in...),
		do: func(ctx context.Context, v *progress.Vertex) (outcome, error) {
			return st.execute(ctx, r, v)
		},
	}, nil
}

// execute runs the command over a writable layer and commits what it changed.
func (st *stage) execute(ctx context.Context, r *plan.Run, v *progress.Vertex) (_ outcome, err error) {
	if err := st.open(ctx); err != nil {
		return outcome{}, err
	}
	rw, err := st.top.NewRWLayer()
	if err != nil {
		return outcome{}, err
	}
	defer func() { err = errors.Join(err, rw.Release()) }()
	if err := makeDir(rw, r.Dir); err != nil {
		return outcome{}, err
	}
	if err := touchEtc(rw.Root(), st.now()); err != nil {
		return outcome{}, err
	}
	run := func(ctx context.Context) error { return st.process(ctx, rw, r, v) }
	if err := st.attempt(ctx, rw.Root(), r, run); err != nil {
		return outcome{}, err
	}
	ro, rest, err := st.commit(rw, r, st.early())
	if err != nil {
		return outcome{}, err
	}
	st.closeTop()
	st.top = ro
	chain := ro.Chain()
	return outcome{Layer: chain[len(chain)-1], rest: rest}, nil
}

// process runs the command with its mounts; they are gone when it returns.
func (st *stage) process(ctx context.Context, rw snapshot.RWLayer, r *plan.Run, v *progress.Vertex) (err error) {
	env := append(append([]string(nil), r.Env...), r.HiddenEnv...)
	ms := newMounter(st.solver, rw)
	defer func() { err = errors.Join(err, ms.close()) }()
	mounts, secretEnv, err := ms.mounts(ctx, r.Mounts)
	if err != nil {
		return err
	}
	stdout, stderr, flush := st.masked(r, v.Stdout(), v.Stderr())
	defer func() { err = errors.Join(err, flush()) }()
	err = st.Executor.Run(ctx, executor.Spec{
		Root: rw.Root(), Owners: snapshot.OwnersOf(rw),
		Process: executor.Process{
			Args: r.Args, Env: append(env, secretEnv...), Dir: r.Dir, User: r.User,
			Stdout: stdout, Stderr: stderr,
		},
		Mounts:   mounts,
		Network:  executor.NetworkMode(r.Network),
		Security: executor.SecurityMode(r.Security),
		Hostname: st.Run.Hostname,
		Hosts:    st.Run.Hosts,
		Ulimits:  st.Run.Ulimits,
		ShmSize:  st.Run.ShmSize,
	})
	var exit *executor.ExitError
	if errors.As(err, &exit) {
		return &ProcessError{Args: r.Args, ExitError: exit}
	}
	return err
}

// open opens the root filesystem of the chain, unless the step before left it open.
func (st *stage) open(ctx context.Context) (err error) {
	if st.top != nil {
		return nil
	}
	st.top, err = st.Snapshotter.Open(ctx, clone(st.chain))
	return err
}

// touchEtc gives /etc the time of the step where /etc/resolv.conf or /etc/hosts is missing. BuildKit makes a file there to mount its own on, and the
// directory keeps the time of that; whether a place makes mount points at all must not decide about layers. Nothing of it is seen unless
// something below /etc changes too.
func touchEtc(root string, now time.Time) error {
	etc, err := openIn(root, "/etc")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening /etc: %w", err)
	}
	defer func() { _ = etc.Close() }()
	for _, name := range []string{"resolv.conf", "hosts"} {
		var st unix.Stat_t
		err := unix.Fstatat(int(etc.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			times := []unix.Timespec{unix.NsecToTimespec(now.UnixNano()), unix.NsecToTimespec(now.UnixNano())}
			return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", etc.Fd()), times, 0)
		}
		if errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("looking for /etc/%s: %w", name, err)
		}
	}
	return nil
}

// makeDir makes sure that a working directory exists, as the runtime of docker build does: what is missing is made below the root, never
// through a link out of it (B17).
func makeDir(rw snapshot.RWLayer, dir string) error {
	if dir == "/" {
		return nil
	}
	if err := pathrs.MkdirAll(rw.Root(), dir, 0o755); err != nil {
		return fmt.Errorf("making working directory %s: %w", dir, err)
	}
	return nil
}
