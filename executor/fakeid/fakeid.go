// Package fakeid answers the system calls of processes in a user namespace for which it has too few ids: what the kernel would refuse there is
// written down in a fakeroot.Table, and told to whoever asks.
//
// Two kinds of namespaces need it. In one with many ids nobody may make a device, and nothing but that is answered (Devices). In one
// with a single id no file has another owner than root and no process is anybody else; there, who owns a file and who a process is
// is known here alone (Everything), and with it what a process that is not root may do. All else is the kernel's own work: paths are looked
// up by it, in the mount namespace of the process, and a call that root makes is mostly let through.
//
// Who a process is is kept where the kernel keeps it for us: a process's soft limit of file locks, which Linux has not looked at since 2.4, is
// the number of its credentials. It goes to children and stays over an execve, and needs no list of processes.
package fakeid

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/notify"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// Mode is what is answered.
type Mode int

// The modes.
const (
	// Devices is mknod of devices.
	Devices Mode = iota
	// Everything is all that has to do with owners.
	Everything
)

// Options are what a Supervisor works with.
type Options struct {
	Mode Mode
	// Owners are of all files but those of mounts that have a table of their own, in Mounts by the path of the mount point.
	Owners *fakeroot.Table
	Mounts map[string]*fakeroot.Table
	// Creds are those of the first process, Umask is its umask.
	Creds identity.Credentials
	Umask uint32
}

// Supervisor answers the calls of one container. It is made by New.
type Supervisor struct {
	mode     Mode
	owners   *fakeroot.Table
	mounts   map[string]*fakeroot.Table
	mounted  map[uint64]*fakeroot.Table // by the mount's id
	handlers map[int]handler
	// ownUmask is this process's, which files made on behalf of others get taken off too.
	ownUmask uint32

	listener notify.Listener
	root     *os.File
	rootStat unix.Stat_t
	procDev  uint64
	chroots  bool
	// people are all credentials there were, by number.
	people []person
	peers  identity.Peers

	stop *os.File
	done sync.WaitGroup
	// broken is why calls could not be answered any more.
	broken error
}

// person is who a process can be.
type person struct {
	identity.Credentials
	umask uint32
	// entering is who has not executed its first program yet: until then, as with docker, every file is open to it.
	entering bool
}

// New returns a Supervisor that does nothing yet.
func New(o Options) *Supervisor {
	s := &Supervisor{mode: o.Mode, owners: o.Owners, mounts: o.Mounts, people: []person{{o.Creds, o.Umask, true}}, handlers: handlers(o.Mode)}
	s.ownUmask = 0o777
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		s.ownUmask = umaskIn(string(status))
	}
	return s
}

// Serve begins to answer what comes from the listener, which it takes over. pid is the first process, which has its final root directory and waits. It
// is killed when nobody can answer any more.
func (s *Supervisor) Serve(listener *os.File, pid int) (err error) {
	defer func() {
		if err != nil {
			listener.Close()
		}
	}()
	root, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("watching a process's system calls: %w", err)
	}
	var proc unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &s.rootStat); err == nil {
		err = unix.Fstatat(int(root.Fd()), "proc", &proc, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		root.Close()
		return fmt.Errorf("watching a process's system calls: %w", err)
	}
	s.root, s.procDev = root, uint64(proc.Dev)
	if err := s.findMounts(pid); err != nil {
		root.Close()
		return fmt.Errorf("watching a process's system calls: %w", err)
	}
	first, err := os.FindProcess(pid)
	if err != nil {
		root.Close()
		return fmt.Errorf("watching a process's system calls: %w", err)
	}
	reader, stop, err := os.Pipe()
	if err != nil {
		root.Close()
		return fmt.Errorf("watching a process's system calls: %w", err)
	}
	s.stop, s.listener = stop, notify.Listener(listener.Fd())
	s.listener.SyncWakeUp()
	s.done.Go(func() {
		// The files are held here: their descriptors are in use as numbers.
		defer listener.Close()
		defer root.Close()
		defer reader.Close()
		if s.broken = s.serve(int(reader.Fd())); s.broken != nil {
			if err := first.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				s.broken = errors.Join(s.broken, err)
			}
		}
		_ = first.Release() // which cannot fail
	})
	return nil
}

// findMounts learns the numbers of the mounts that have a table (proc_pid_mountinfo(5)). Of several at one place the last is seen.
func (s *Supervisor) findMounts(pid int) error {
	s.mounted = map[uint64]*fakeroot.Table{}
	if len(s.mounts) == 0 {
		return nil
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return err
	}
	at := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		id, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			return err
		}
		at[strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])] = id
	}
	for target, t := range s.mounts {
		id, ok := at[target]
		if !ok {
			return fmt.Errorf("%s is not mounted", target)
		}
		s.mounted[id] = t
	}
	return nil
}

// Close ends the answers, when no process is left that could ask. Its error is why they ended before that. It may be called without Serve.
func (s *Supervisor) Close() error {
	if s.stop != nil {
		s.stop.Close()
	}
	s.done.Wait()
	return s.broken
}

// serve answers until the other end of stop is closed. There is one thread: nothing it does waits for a process.
func (s *Supervisor) serve(stop int) error {
	if err := notify.BlockSignals(); err != nil {
		return err
	}
	fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	for {
		// The kernel may wait in Receive for longer than there is anybody to wait for.
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return fmt.Errorf("waiting for a system call: %w", err)
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return nil // no task is left, or this has been closed
		}
		var n notify.Notification
		switch err := s.listener.Receive(&n); err {
		case nil:
			if err := s.listener.Reply(n.ID, s.answer(&n)); err != nil {
				return err
			}
		case unix.EINTR, unix.ENOENT: // the task has ended meanwhile
		default:
			return fmt.Errorf("receiving a system call: %w", err)
		}
	}
}

func (s *Supervisor) answer(n *notify.Notification) notify.Answer {
	h := s.handlers[int(n.NR)]
	if h == nil {
		return notify.Pass()
	}
	c := &call{Supervisor: s, tid: int(n.PID), args: n.Args}
	if s.mode == Everything {
		c.person = s.people[s.number(c.tid)]
	}
	return h(c)
}

// number is that of a task's credentials.
func (s *Supervisor) number(tid int) int {
	var limit unix.Rlimit
	if err := unix.Prlimit(tid, rlimitLocks, nil, &limit); err != nil || limit.Cur >= uint64(len(s.people)) {
		return 0
	}
	return int(limit.Cur)
}

// rlimitLocks is RLIMIT_LOCKS.
const rlimitLocks = 10

// become makes a task somebody else.
func (s *Supervisor) become(tid int, p person) {
	n := 0
	for n < len(s.people) && !s.people[n].is(&p) {
		n++
	}
	if n == len(s.people) {
		s.people = append(s.people, p)
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(tid, rlimitLocks, nil, &limit); err == nil {
		limit.Cur = uint64(n)
		_ = unix.Prlimit(tid, rlimitLocks, &limit, nil)
	}
}

func (p *person) is(o *person) bool {
	return p.umask == o.umask && p.entering == o.entering && p.Credentials.Equal(o.Credentials)
}
