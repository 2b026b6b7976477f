package ptrace

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/notify"
)

// openFlags are those that have a meaning here; the kernel ignores others in open(2).
const openFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND | unix.O_NONBLOCK | unix.O_DSYNC |
	unix.O_ASYNC | unix.O_DIRECT | unix.O_LARGEFILE | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC | unix.O_SYNC |
	unix.O_PATH | unix.O_TMPFILE

func openat(c *call) answer { return c.openWith(c.args[2], c.args[3]) }

func openat2(c *call) answer {
	var how [24]byte
	if c.memory().Read(c.args[2], how[:]) < len(how) {
		return fail(unix.EFAULT)
	}
	// What resolve forbids is not looked at further, and O_PATH cannot be handed over: programs that use them have something to fall back on.
	if binary.NativeEndian.Uint64(how[16:]) != 0 || binary.NativeEndian.Uint64(how[:])&unix.O_PATH != 0 {
		return fail(unix.ENOSYS)
	}
	return c.openWith(binary.NativeEndian.Uint64(how[:]), binary.NativeEndian.Uint64(how[8:]))
}

func (c *call) openWith(flags, mode uint64) answer {
	p, err := c.memory().Path(c.args[1])
	if err != nil {
		return fail(err)
	}
	o := opening{call: c, flags: int(flags) & openFlags, mode: uint32(mode) & 0o7777}
	if o.flags&unix.O_PATH != 0 {
		o.flags &= unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	}
	fd, err := o.open(c.int(0), p)
	if err == errLater {
		return answer{Later: true}
	}
	return answer{FD: fd, IsFD: true, CloseOnExec: o.flags&unix.O_CLOEXEC != 0, Err: err}
}

// opening is one open under way.
type opening struct {
	*call
	flags int
	mode  uint32
}

func (o *opening) writes() bool {
	return o.flags&unix.O_PATH == 0 && (o.flags&unix.O_ACCMODE != unix.O_RDONLY || o.flags&unix.O_TRUNC != 0)
}

func (o *opening) open(dirfd int32, p string) (int, error) {
	if o.flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return o.temporary(dirfd, p)
	}
	for tries := 0; ; tries++ {
		follow := o.flags&unix.O_NOFOLLOW == 0 && o.flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL
		at, err := o.resolver().find(dirfd, p, follow)
		if err == nil {
			defer at.close()
			if o.flags&unix.O_CREAT != 0 && o.flags&unix.O_EXCL != 0 && o.flags&unix.O_PATH == 0 {
				return -1, unix.EEXIST
			}
			return o.existing(&at)
		}
		if err != unix.ENOENT || o.flags&unix.O_CREAT == 0 {
			return -1, err
		}
		fd, err := o.create(dirfd, p)
		if err != unix.EEXIST || tries > 10 {
			return fd, err
		}
	}
}

// existing opens a file that is there.
func (o *opening) existing(at *place) (int, error) {
	if at.isLink() && o.flags&unix.O_PATH == 0 {
		return -1, unix.ELOOP
	}
	if o.flags&unix.O_DIRECTORY != 0 && !at.isDir() {
		return -1, unix.ENOTDIR
	}
	if o.flags&unix.O_PATH != 0 {
		return unix.FcntlInt(uintptr(at.fd), unix.F_DUPFD_CLOEXEC, 3)
	}
	if at.isDir() && (o.writes() || o.flags&unix.O_CREAT != 0) {
		return -1, unix.EISDIR
	}
	want := uint32(unix.R_OK)
	switch o.flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		want = unix.W_OK
	case unix.O_RDWR:
		want = unix.R_OK | unix.W_OK
	}
	if o.flags&unix.O_TRUNC != 0 {
		want |= unix.W_OK
	}
	r := o.resolver()
	if err := r.access(at, want); err != nil {
		return -1, err
	}
	if at.mount.Kind == procMount && at.path != "" {
		if o.writes() {
			if !r.ofProcess(at) {
				return -1, unix.EROFS // the machine's settings
			}
		} else if content, ok, err := r.translated(at); ok || err != nil {
			return o.inMemory(content, err)
		}
	}
	kind := at.st.Mode & unix.S_IFMT
	if o.writes() && (kind == unix.S_IFREG || kind == unix.S_IFDIR) {
		if at.mount.ReadOnly {
			return -1, unix.EROFS
		}
		if err := o.unshare(at); err != nil {
			return -1, err
		}
	}
	if m, ok := at.owners().Get(keyOf(at)); ok && m.Type != 0 {
		return -1, unix.EPERM // what stands for a device opens nothing
	}
	flags := o.flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW) | unix.O_CLOEXEC | unix.O_NOCTTY
	if kind == unix.S_IFIFO && o.flags&unix.O_NONBLOCK == 0 {
		return -1, o.blocking(at, flags)
	}
	return retryOpen(at.file(), flags)
}

func retryOpen(name string, flags int) (int, error) {
	for {
		fd, err := unix.Open(name, flags, 0)
		if err == unix.EPERM && flags&unix.O_NOATIME != 0 {
			flags &^= unix.O_NOATIME
			continue
		}
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (o *opening) inMemory(content []byte, err error) (int, error) {
	if err != nil {
		return -1, err
	}
	fd, err := unix.MemfdCreate("proc", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	for b := content; len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			unix.Close(fd)
			return -1, err
		}
		b = b[n:]
	}
	_, err = unix.Seek(fd, 0, 0)
	return fd, err
}

// create makes a file that is not there, where a dangling link leads if there is one.
func (o *opening) create(dirfd int32, p string) (int, error) {
	for links := 0; links < maxLinks; links++ {
		if p != "" && p[len(p)-1] == '/' {
			return -1, unix.EISDIR
		}
		r := o.resolver()
		dir, base, err := r.parent(dirfd, p)
		if err != nil {
			return -1, err
		}
		defer dir.close()
		if special(base) {
			return -1, unix.EISDIR
		}
		if target, err := readlink(dir.file() + "/" + base); err == nil && o.flags&unix.O_NOFOLLOW == 0 && o.flags&unix.O_EXCL == 0 {
			if target[0] != '/' {
				target = join(dir.path, target)
			}
			dirfd, p = unix.AT_FDCWD, target
			continue
		}
		if err := o.mayChange(&dir); err != nil {
			return -1, err
		}
		mode := o.mode &^ o.task.group.mask()
		fd, err := unix.Openat(dir.fd, base, o.flags&^unix.O_TRUNC|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, realMode(mode, false))
		if err != nil {
			return -1, err
		}
		return fd, o.created(fd, &dir, mode)
	}
	return -1, unix.ELOOP
}

// temporary makes a file without a name (O_TMPFILE).
func (o *opening) temporary(dirfd int32, p string) (int, error) {
	dir, err := o.resolver().find(dirfd, p, true)
	if err != nil {
		return -1, err
	}
	defer dir.close()
	if err := o.mayChange(&dir); err != nil {
		return -1, err
	}
	mode := o.mode &^ o.task.group.mask()
	fd, err := unix.Open(dir.file(), o.flags&^unix.O_NOFOLLOW|unix.O_CLOEXEC, realMode(mode, false))
	if err != nil {
		return -1, err
	}
	return fd, o.created(fd, &dir, mode)
}

// errLater is not an error: the answer comes when it is known.
var errLater = unix.Errno(0xfff)

// fifoPatience is how often a task that waits for the other end of a FIFO is looked at.
const fifoPatience = 50 * time.Millisecond

// blocking opens a FIFO, which waits until its other end is opened, on a thread of its own. If the task ends meanwhile, the wait does too.
func (o *opening) blocking(at *place, flags int) error {
	own, err := unix.FcntlInt(uintptr(at.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	other, err := unix.FcntlInt(uintptr(at.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		unix.Close(own)
		return err
	}
	done := make(chan struct{})
	go func() {
		defer unix.Close(own)
		if err := notify.BlockSignals(); err != nil {
			o.abort(err)
		}
		fd, err := retryOpen(selfFD(own), flags)
		close(done)
		if err := o.listener.Reply(o.id, answer{FD: fd, IsFD: true, CloseOnExec: o.flags&unix.O_CLOEXEC != 0, Err: err}); err != nil {
			o.abort(err)
		}
	}()
	go func() {
		defer unix.Close(other)
		tick := time.NewTicker(fifoPatience)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if o.listener.Valid(o.id) {
					continue
				}
				// Both ends at once: whoever waits on either goes on.
				if fd, err := unix.Open(selfFD(other), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
					<-done
					unix.Close(fd)
				}
				return
			}
		}
	}()
	return errLater
}
