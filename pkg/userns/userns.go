// Package userns enters the place where builds happen: new namespaces in which an ordinary user may mount, change owners
// and run containers, and which the kernel takes away, with every mount and every process in them, however the program ends.
//
// A program that calls Enter becomes three processes. All of them run the same executable with the same arguments:
//
//	outer                     init                           worker
//	───────────────────────   ────────────────────────────   ──────────────────────────────
//	clone(user, mount, pid) ─► waits for the id maps
//	newuidmap, newgidmap      (pid 1 of the pid namespace)
//	writes "go" ────────────► exec of itself ──────────────► root of the user namespace: has
//	forwards signals          reaps orphans                  all capabilities, mounts private,
//	waits                     passes signals on              mounts /proc; main goes on here
//	exits with its code ◄──── exits with its code ◄───────── exits
//
// The worker must be a new program image because execve is what gives root in the user namespace its capabilities, and
// the maps can only be written from outside, after the clone. Init is a process of its own because pid 1 inherits every
// orphan: reaping them in the worker would steal the exit statuses that its own os/exec calls wait for.
//
// Two sockets tie the three together. Their end of file is the truth about who lives: when outer is gone, init reads the
// end of its socket and exits, and the kernel kills a pid namespace with its pid 1. The parent death signal is set
// besides, after the last exec, because an exec that gains capabilities clears it.
//
// This package holds the only init function of the tree: it catches the second and third of these processes before any
// other package does its work. Other programs within the program (libcontainer's "init") are registered with Entry.
package userns

import (
	"os"
	"strings"
)

// IDMap says which ids the place can express.
type IDMap string

// The kinds of id maps.
const (
	// NoMap is no new user namespace: the process was root already.
	NoMap IDMap = ""
	// SubIDs maps the user to root and the ranges of /etc/subuid and /etc/subgid to the ids from 1 on.
	SubIDs IDMap = "sub-ids"
	// Identity maps every id the process could see to itself.
	Identity IDMap = "identity"
	// SingleID maps the user to root and nothing else: no file can have another owner.
	SingleID IDMap = "single id"
)

// Mode describes how the place was entered.
type Mode struct {
	// Map says which user namespace was made, if any.
	Map IDMap
	// Bare is no new namespace at all: there is only the supervision, by which nothing outlives the program.
	Bare bool
	// PID tells that there is a new pid namespace with its own /proc. Without it, processes that outlive their
	// parent are ended by a supervisor instead of the kernel.
	PID bool
	// Obstacle is why a better mode was not possible, in one sentence with a hint; empty for the best mode.
	Obstacle string
}

// String describes the mode in a few words, for messages: "user namespace (sub-ids), mount namespace, pid namespace".
func (m Mode) String() string {
	if m.Bare {
		return "no namespaces"
	}
	var parts []string
	if m.Map != NoMap {
		parts = append(parts, "user namespace ("+string(m.Map)+")")
	}
	parts = append(parts, "mount namespace")
	if m.PID {
		parts = append(parts, "pid namespace")
	}
	return strings.Join(parts, ", ")
}

// Want names the modes that EnterAs may take.
type Want string

// What can be wanted.
const (
	// Auto is the best mode that can be had for whatever comes after it: namespaces with many ids, with one, or none.
	Auto Want = "auto"
	// Namespaces are the best that can be had, at worst with one id.
	Namespaces Want = "namespaces"
	// Full is namespaces in which files can have more than one owner.
	Full Want = "full"
	// Single is a user namespace with one id, whoever asks.
	Single Want = "single"
	// Bare is no namespaces.
	Bare Want = "bare"
)

// entered is the mode of this process when it is a worker. It is written once, before any other package's code runs.
var entered *Mode

// init is the one of the whole tree: what it catches must be caught before anything else runs, or the second process
// would do half of the first one's work again.
func init() { catch() }

// Inside tells whether this process is a worker: its main runs in the place that Enter made.
func Inside() bool { return entered != nil }

// Current returns the mode in which the place was entered, and false outside of it.
func Current() (Mode, bool) {
	if entered == nil {
		return Mode{}, false
	}
	return *entered, true
}

// Entry makes the program another program when it is started as `<program> name` with the environment variable marker
// set: fn runs in its place and the process exits with 1 if fn returns. It is called while package variables are
// initialised,
//
//	var _ = userns.Entry("init", "_LIBCONTAINER_INITPIPE", libcontainer.Init)
//
// so importing the package that says so is all that a program or a test binary has to do. The marker is what keeps
// a user's own argument of that name from being taken for it. The result means nothing.
func Entry(name, marker string, fn func()) bool {
	if len(os.Args) < 2 || os.Args[1] != name || os.Getenv(marker) == "" {
		return false
	}
	fn()
	os.Exit(1)
	return true
}

// Main makes the program another program, as Entry does, when it is started as `<program> name` with the environment variable marker set to
// value: fn runs in its place, and its result is the exit code. fn may call Enter; inside, the marker is not handed on to what fn starts.
func Main(name, marker, value string, fn func() int) bool {
	if len(os.Args) < 2 || os.Args[1] != name || os.Getenv(marker) != value {
		return false
	}
	if Inside() {
		os.Unsetenv(marker)
	}
	os.Exit(fn())
	return true
}
