package ladder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/pkg/userns"
	"github.com/cairn-build/cairn/snapshot"
	"golang.org/x/sys/unix"
)

// Diagnosis is what this place gives to builds, and what it would need to give more.
type Diagnosis struct {
	// Rung is the one that builds get, "" if none works; Executor and Snapshotter are its parts.
	Rung        Isolation `json:"rung"`
	Executor    string    `json:"executor,omitempty"`
	Snapshotter string    `json:"snapshotter,omitempty"`
	// State is the directory for state; StateMoved says why it is not the usual one.
	State      string `json:"state"`
	StateMoved string `json:"stateMoved,omitempty"`
	Kernel     string `json:"kernel"`
	UID        int    `json:"uid"`
	// Rungs are all rungs, best first, each tried.
	Rungs []Trial `json:"rungs"`
	// Floors are the features of newer kernels that something stands on.
	Floors []Floor `json:"floors"`
}

// Trial is a rung that was tried, by running a program in an empty root filesystem, as an ordinary user where there are any.
type Trial struct {
	Rung  Isolation `json:"rung"`
	Works bool      `json:"works"`
	// Executor and Snapshotter are its parts, Place the namespaces it has, if it works.
	Executor    string `json:"executor,omitempty"`
	Snapshotter string `json:"snapshotter,omitempty"`
	Place       string `json:"place,omitempty"`
	// Obstacle is why it does not work or, if it does, what is less than it could be. Fix is what would help.
	Obstacle string `json:"obstacle,omitempty"`
	Fix      string `json:"fix,omitempty"`
	// Milliseconds is how long the trial took, with the start of the program for it.
	Milliseconds int64 `json:"milliseconds"`
}

const (
	probeArg    = "cairn-probe"
	probeMarker = "_CAIRN_PROBE"
	// probeRung is the marker's value in the program that tries a rung, probeEnd in the one that is run on it.
	probeRung, probeEnd = "rung", "end"
	// probeTime is how long a trial may take.
	probeTime = 30 * time.Second
)

var (
	_ = userns.Main(probeArg, probeMarker, probeRung, probe)
	_ = userns.Main(probeArg, probeMarker, probeEnd, func() int { return 0 })
)

// Diagnose tries every rung. state is the directory for state, env the environment.
func Diagnose(ctx context.Context, state string, env []string) Diagnosis {
	d := Diagnosis{State: state, UID: os.Geteuid(), Floors: floors()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		d.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	for _, i := range Rungs() {
		t := trial{i, state, env}.run(ctx)
		if t.Works && d.Rung == "" {
			d.Rung, d.Executor, d.Snapshotter = i, t.Executor, t.Snapshotter
		}
		d.Rungs = append(d.Rungs, t)
	}
	return d
}

// trial is what it takes to try a rung.
type trial struct {
	rung  Isolation
	state string
	env   []string
}

// run starts this program again, to try the rung.
func (w trial) run(ctx context.Context) Trial {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", probeArg, string(w.rung), w.state)
	cmd.Env = append(slices.Clone(w.env), probeMarker+"="+probeRung)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	t := Trial{Rung: w.rung}
	if jerr := json.Unmarshal(out, &t); jerr != nil {
		t.Obstacle = strings.TrimSpace(fmt.Sprintf("the trial ended without a result: %v %s", errors.Join(err, jerr), stderr.String()))
	}
	t.Milliseconds = time.Since(start).Milliseconds()
	return t
}

// probe is the program that tries a rung: its result goes to standard output.
func probe() int {
	t := Trial{Rung: Isolation(os.Args[2])}
	done, code, err := Enter(t.Rung)
	if done && err == nil {
		return code
	}
	if err == nil {
		err = t.run(os.Args[3])
	}
	if err != nil {
		m := missed(t.Rung, strings.TrimPrefix(err.Error(), fmt.Sprintf("isolation %s: ", t.Rung)))
		t.Works, t.Obstacle, t.Fix = false, m.Obstacle, m.Fix
	}
	_ = json.NewEncoder(os.Stdout).Encode(t)
	return 0
}

// run runs this program on the rung, as a user who is not root.
func (t *Trial) run(state string) (err error) {
	st, err := store.Open(state)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	r, err := Open(Options{Isolation: t.Rung, Store: st, Blob: func(context.Context, layer.Layer) (io.ReadCloser, error) {
		return nil, errors.New("an empty root filesystem has no layers")
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	ctx := context.Background()
	ro, err := r.Snapshotter.Open(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ro.Release()) }()
	rw, err := ro.NewRWLayer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rw.Release()) }()
	if err := copyProgram(filepath.Join(rw.Root(), probeArg)); err != nil {
		return err
	}
	mode, _ := userns.Current()
	if err := r.Executor.Run(ctx, executor.Spec{Root: rw.Root(), Owners: snapshot.OwnersOf(rw), Process: executor.Process{
		Args: []string{"/" + probeArg, probeArg}, Env: []string{probeMarker + "=" + probeEnd}, User: "1:1",
	}}); err != nil {
		return err
	}
	t.Works, t.Executor, t.Snapshotter, t.Place = true, r.Executor.Name(), r.Snapshotter.Name(), mode.String()
	if mode.Map == userns.SingleID {
		t.Obstacle = "there is one user only: others, and owners of files, are imitated, which costs time"
		t.Fix = "sub-ids and newuidmap, for the isolation userns"
	} else if mode.Obstacle != "" && !mode.Bare {
		m := missed(t.Rung, mode.Obstacle)
		t.Obstacle, t.Fix = m.Obstacle, m.Fix
	}
	return nil
}

// copyProgram copies this program, which is linked statically and needs nothing else.
func copyProgram(to string) (err error) {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

// Floor is a feature of the kernel that came with some version.
type Floor struct {
	Feature string `json:"feature"`
	// Needs is the first version of Linux that has it, where no distributor has brought it to an older one.
	Needs string `json:"needs"`
	Met   bool   `json:"met"`
	// Without says what is done, or cannot be done, without it.
	Without string `json:"without"`
}

// floors compares this kernel with what the rungs stand on. What a call can tell is asked by a call.
func floors() []Floor {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) == nil {
		_, _ = fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	}
	since := func(a, b int) bool { return major > a || major == a && minor >= b }
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err == nil {
		unix.Close(fd)
	}
	setattr := unix.MountSetattr(-1, "", 0, &unix.MountAttr{})
	return []Floor{
		{"openat2", "5.6", err == nil, "nothing works: paths of images cannot be opened safely"},
		{"overlay in a user namespace", "5.11", since(5, 11), "userns does not work for an ordinary user"},
		{"mount_setattr", "5.12", !errors.Is(setattr, unix.ENOSYS), "userns uses libcontainer, which is slower"},
		{"SECCOMP_ADDFD_FLAG_SEND", "5.14", since(5, 14), "ptrace does not work"},
		{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "5.19", since(5, 19), "with ptrace, a signal may have a system call made twice"},
		{"lowerdir+", "6.5", since(6, 5), "images of many layers are mounted in two steps"},
	}
}
