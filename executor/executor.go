// Package executor runs one process over a root filesystem, confined as `docker build` confines a RUN step.
//
// An Executor knows nothing of Dockerfiles or images. It is given a directory that is a root filesystem and a Spec; it
// leaves no mount and no process behind, and nothing in the root filesystem but what the process itself wrote there.
package executor

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// Executor runs processes. Implementations are safe for concurrent use.
type Executor interface {
	// Name is the short name of the implementation: "runc".
	Name() string
	// Run runs one process to its end. A process that ran and exited non-zero is an *ExitError; everything else
	// means that it could not be run. When ctx ends the process gets SIGTERM, and SIGKILL after Spec.Grace.
	Run(ctx context.Context, spec Spec) error
}

// Mountless is implemented by executors that work without mounts, for places where nobody may mount. The source of a Bind need not be a file
// with a name for them: it may be the name of a descriptor, "/proc/PID/fd/N", that the caller keeps open.
type Mountless interface {
	Executor
	Mountless()
}

// Spec is one process and the place it runs in.
type Spec struct {
	// Root is the directory of the root filesystem. It is writable.
	Root    string
	Process Process
	// Mounts are mounted in order, after /proc, /dev and /sys.
	Mounts   []Mount
	Network  NetworkMode
	Security SecurityMode
	// Hostname is the name of the UTS namespace; where none can be set, asking for one is an error.
	Hostname string
	// DefaultHostname is the name where Hostname is "" and one can be set; "" is "buildkitsandbox".
	DefaultHostname string
	// Hosts are additional lines of /etc/hosts.
	Hosts []Host
	// Ulimits replace the defaults of the same name, clamped to the hard limits of the place.
	Ulimits []Ulimit
	// ShmSize is the size of /dev/shm in bytes; 0 is 64 MiB.
	ShmSize int64
	// Grace is how long the processes have between SIGTERM and SIGKILL once ctx has ended; 0 is 10 seconds.
	Grace time.Duration
	// StopSignal is what a Stop without a signal sends, as an image's STOPSIGNAL says; 0 is SIGTERM.
	StopSignal int
	// Owners, unless nil, is what Root's files are said to be where the file system cannot say it: the snapshotter's table for a root
	// filesystem that belongs to one user only. An executor that fakes owners starts from it and leaves in it what its processes did; the
	// others have real owners and do not look at it.
	Owners *fakeroot.Table `json:"-"`
	// Started, unless nil, is called once the process is under way; never if it could not be started.
	Started func() `json:"-"`
}

// Stop, as the cause with which a Run's context ends (context.WithCancelCause), says how to end the process. The process is then said to
// have ended as it did, which is how a container is stopped, and not that it was cancelled.
type Stop struct {
	// Signal is sent first, 0 is Spec.StopSignal: to the first process if it has a handler for it, else to every one. SIGKILL follows after Grace,
	// at once if that is 0.
	Signal int
	Grace  time.Duration
}

func (s *Stop) Error() string { return "stopped" }

// Process is what is executed.
type Process struct {
	// Args is the command and its arguments; Args[0] is looked up in the PATH of Env.
	Args []string
	Env  []string
	// Dir is the absolute working directory; "" is "/". It is looked up in the root filesystem with its mounts, and made,
	// owned by root, where a step before has removed it.
	Dir string
	// User is resolved in the root filesystem's /etc/passwd and /etc/group: "name", "uid", "name:group", "uid:gid"; "" is root.
	User string
	// Stdin may be nil (an empty stream). Stdout and Stderr get output as it is written.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal, when not nil, makes the process the leader of a session on a new terminal, which is relayed to these files.
	Terminal *os.File
}

// MountType is the kind of a Mount.
type MountType string

// The kinds of mounts.
const (
	Bind  MountType = "bind"
	Tmpfs MountType = "tmpfs"
)

// Mount is a directory or file made visible inside the root filesystem.
type Mount struct {
	Type MountType
	// Source is the absolute path that a Bind shows. It is trusted: whoever fills it has resolved it inside its own root.
	Source string
	// Target is the absolute path inside the root filesystem. It is resolved there, never outside. What has to
	// be created to mount there is removed again afterwards.
	Target   string
	ReadOnly bool
	// Owners, unless nil, is what the Source's files are said to be, as is Spec.Owners for those of the root filesystem.
	Owners *fakeroot.Table `json:"-"`
	// Size bounds a Tmpfs, in bytes; 0 leaves the kernel's default. Mode is that of a Tmpfs' root; 0 is 01777.
	Size int64
	Mode uint32
}

// NetworkMode says which network the process sees.
type NetworkMode string

// The network modes. NetworkDefault is the caller's network, as is NetworkHost.
const (
	NetworkDefault NetworkMode = ""
	NetworkNone    NetworkMode = "none"
	NetworkHost    NetworkMode = "host"
)

// SecurityMode says how far the process is confined. Any other value is an error, never a default.
type SecurityMode string

// The security modes. SecurityInsecure lifts capabilities, seccomp and masks as far as the place allows.
const (
	SecuritySandbox  SecurityMode = ""
	SecurityInsecure SecurityMode = "insecure"
)

// Host is one line of /etc/hosts.
type Host struct {
	Name string
	IP   netip.Addr
}

// Ulimit is a resource limit by the name that `docker build --ulimit` uses ("nofile").
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// ExitError is the end of a process that ran and did not exit with 0, or of one whose command could not be executed.
type ExitError struct {
	// Code is the exit status, or 128+n after signal n.
	Code int
	// Signal is the signal that ended the process, 0 if none did.
	Signal int
	// Reason says why the command could not be executed, as a shell would; "" where it ran.
	Reason string
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("exit code: %d (signal %d)", e.Code, e.Signal)
	}
	if e.Reason != "" {
		return fmt.Sprintf("exit code: %d: %s", e.Code, e.Reason)
	}
	return fmt.Sprintf("exit code: %d", e.Code)
}

// StatusCode returns the exit code.
func (e *ExitError) StatusCode() int { return e.Code }
