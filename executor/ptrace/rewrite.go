package ptrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// changed is what becomes of a call at a ptrace stop. Strings and arrays are put below the stack of the task.
type changed struct {
	nr   int
	args [6]uint64
	// unchanged lets the call through as it is.
	unchanged bool
	// hold is a descriptor of the supervisor that the call uses by its name in /proc, to be closed after it; 0 if none.
	hold int
	// program is what an execve makes of the task.
	program *program
	// after is called when the call has returned, unless it is nil. Its error ends the step.
	after func() error
}

// rewrite changes a call of a task, or returns the error that the call is to return. hold counts in either case.
type rewrite func(c *call, s *scratch) (changed, error)

// scratch is memory of a task that nobody uses: below its stack.
type scratch struct {
	mem notify.Memory
	sp  uint64
	err error
}

func newScratch(mem notify.Memory, sp uint64) *scratch {
	return &scratch{mem: mem, sp: (sp - redZone) &^ 15}
}

func (s *scratch) push(b []byte) uint64 {
	s.sp = (s.sp - uint64(len(b))) &^ 7
	if err := s.mem.Write(s.sp, b); err != nil && s.err == nil {
		s.err = err
	}
	return s.sp
}

func (s *scratch) text(t string) uint64 { return s.push(append([]byte(t), 0)) }

func (s *scratch) array(words []uint64) uint64 {
	var b []byte
	for _, w := range append(words, 0) {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	return s.push(b)
}

func rewriteChdir(c *call, s *scratch) (changed, error) {
	p, err := c.memory().Path(c.args[0])
	if err != nil {
		return changed{}, err
	}
	at, err := c.resolver().find(unix.AT_FDCWD, p, true)
	if err != nil {
		return changed{}, err
	}
	defer at.close()
	if !at.isDir() {
		return changed{}, unix.ENOTDIR
	}
	if err := c.resolver().access(&at, unix.X_OK); err != nil {
		return changed{}, err
	}
	host, err := hostPath(at.fd)
	if err != nil {
		return changed{}, err
	}
	args := c.args
	args[0] = s.text(host)
	return changed{nr: unix.SYS_CHDIR, args: args}, s.err
}

func rewriteExec(c *call, s *scratch) (changed, error) {
	p, err := c.memory().Path(c.args[0])
	if err != nil {
		return changed{}, err
	}
	at, err := c.resolver().find(unix.AT_FDCWD, p, true)
	if err != nil {
		return changed{}, err
	}
	return c.exec(s, execution{&at, p, c.args[1], c.args[2]})
}

func rewriteExecat(c *call, s *scratch) (changed, error) {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return changed{}, err
	}
	at, err := c.findEmpty(0, c.args[4])
	if err != nil {
		return changed{}, err
	}
	if at.isLink() {
		at.close()
		return changed{}, unix.ELOOP
	}
	// As the kernel calls what it executes by descriptor.
	switch {
	case p == "":
		p = fmt.Sprintf("/dev/fd/%d", c.int(0))
	case p[0] != '/' && c.int(0) != unix.AT_FDCWD:
		p = fmt.Sprintf("/dev/fd/%d/%s", c.int(0), p)
	}
	return c.exec(s, execution{&at, p, c.args[2], c.args[3]})
}

// execution is an execve of a file, called name, with the addresses of its arguments and environment.
type execution struct {
	at         *place
	name       string
	argv, envp uint64
}

// maxArg is the most that one argument may have (MAX_ARG_STRLEN).
const maxArg = 32 * notify.PageSize

func (c *call) exec(s *scratch, x execution) (changed, error) {
	defer x.at.close()
	mem := c.memory()
	var pointers []uint64
	if x.argv != 0 {
		var err error
		if pointers, err = mem.Pointers(x.argv); err != nil {
			return changed{}, err
		}
	}
	// The arguments themselves stay where they are; only their number counts here.
	argv := make([]string, len(pointers))
	p, err := c.resolver().program(x.at, x.name, argv)
	if err != nil {
		return changed{}, err
	}
	out := changed{nr: unix.SYS_EXECVE, args: [6]uint64{s.text(p.host), x.argv, x.envp}, program: p}
	if added := len(p.argv) - max(len(pointers), 1); added > 0 {
		// p.argv begins with what was added before the script's name, which takes the place of argv[0].
		words := make([]uint64, 0, len(p.argv)+1)
		for _, a := range p.argv[:added+1] {
			words = append(words, s.text(a))
		}
		out.args[1] = s.array(append(words, pointers[min(1, len(pointers)):]...))
	}
	return out, s.err
}

// rewriteSocket has bind, connect and sendto, whose address is the argument at, find the socket files of the root filesystem: a name in /proc
// leads there that is short enough for an address of 108 bytes, however long the real one is.
func rewriteSocket(at int) rewrite {
	return func(c *call, s *scratch) (changed, error) { return c.socket(s, at) }
}

func (c *call) socket(s *scratch, at int) (changed, error) {
	size := c.args[at+1]
	if size < 3 || size > 128 {
		return changed{unchanged: true}, nil
	}
	addr := make([]byte, size)
	if err := c.memory().ReadFull(c.args[at], addr); err != nil {
		return changed{}, err
	}
	if binary.NativeEndian.Uint16(addr) != unix.AF_UNIX {
		return changed{unchanged: true}, nil
	}
	if c.nr == unix.SYS_CONNECT {
		if err := c.connects(); err != nil {
			return changed{}, err
		}
	}
	if addr[2] == 0 {
		return changed{unchanged: true}, nil
	}
	name := addr[2:]
	if i := slices.Index(name, 0); i >= 0 {
		name = name[:i]
	}
	nr := c.nr
	dir, base, err := c.socketPlace(nr == unix.SYS_BIND, string(name))
	if err != nil {
		return changed{}, err
	}
	hold := dir.fd
	short := fmt.Sprintf("/proc/%d/fd/%d", c.pid, hold)
	if base != "" {
		short += "/" + base
	}
	sun := binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX)
	sun = append(append(sun, short...), 0)
	if len(sun) > unix.SizeofSockaddrUnix {
		unix.Close(hold)
		return changed{}, unix.ENAMETOOLONG
	}
	args := c.args
	args[at], args[at+1] = s.push(sun), uint64(len(sun))
	out := changed{nr: nr, args: args, hold: hold}
	if base != "" {
		// Whose the new file is; there is none if the call has failed.
		out.after = func() error {
			if err := c.made(&dir, base, 0o777&^c.task.group.mask()); err != unix.ENOENT {
				return err
			}
			return nil
		}
	}
	return out, s.err
}

// socketPlace looks up the directory to bind a socket in and its name there, or the socket to connect to.
func (c *call) socketPlace(bind bool, name string) (place, string, error) {
	if !bind {
		at, err := c.resolver().find(unix.AT_FDCWD, name, true)
		if err != nil {
			return place{}, "", err
		}
		if err := c.resolver().access(&at, unix.W_OK); err != nil {
			at.close()
			return place{}, "", err
		}
		return at, "", nil
	}
	dir, base, err := c.newName(unix.AT_FDCWD, name)
	if errors.Is(err, unix.EEXIST) {
		err = unix.EADDRINUSE
	}
	return dir, base, err
}

// rewriteOpen has the kernel open a file with O_PATH.
func rewriteOpen(o openCall) rewrite {
	return func(c *call, s *scratch) (changed, error) {
		dirfd, flags := int32(unix.AT_FDCWD), c.args[o.flags]
		if o.flags == 2 {
			dirfd = c.int(0)
		}
		p, err := c.memory().Path(c.args[o.flags-1])
		if err != nil {
			return changed{}, err
		}
		at, err := c.resolver().find(dirfd, p, flags&unix.O_NOFOLLOW == 0)
		if err != nil {
			return changed{}, err
		}
		name := fmt.Sprintf("/proc/%d/fd/%d", c.pid, at.fd)
		if !at.isLink() {
			flags &^= unix.O_NOFOLLOW
		} else {
			dir, base, err := c.resolver().parent(unix.AT_FDCWD, at.path)
			at.close()
			if err != nil {
				return changed{}, err
			}
			at, name = dir, fmt.Sprintf("/proc/%d/fd/%d/%s", c.pid, dir.fd, base)
		}
		args := c.args
		args[o.flags-1], args[o.flags] = s.text(name), flags
		return changed{nr: c.nr, args: args, hold: at.fd}, s.err
	}
}

// rewriteInotify watches a file of the root filesystem.
func rewriteInotify(c *call, s *scratch) (changed, error) {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return changed{}, err
	}
	at, err := c.resolver().find(unix.AT_FDCWD, p, c.args[2]&unix.IN_DONT_FOLLOW == 0)
	if err != nil {
		return changed{}, err
	}
	args := c.args
	args[1] = s.text(fmt.Sprintf("/proc/%d/fd/%d", c.pid, at.fd))
	args[2] &^= unix.IN_DONT_FOLLOW
	return changed{nr: unix.SYS_INOTIFY_ADD_WATCH, args: args, hold: at.fd}, s.err
}
