package namespace

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/fakeid"
	"github.com/cairn-build/cairn/executor/identity"
	"github.com/cairn-build/cairn/executor/sandbox"
	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// imitation is what of the ids and devices of a process is not the kernel's, for lack of ids or rights, but imitated (package fakeid).
type imitation int

const (
	// nothing where the process is as good as root.
	nothing imitation = iota
	// devices in a user namespace with many ids.
	devices
	// everything in one with a single id.
	everything
)

// imitationFor says what a place needs.
func imitationFor(p sandbox.Place) (imitation, error) {
	single := len(p.UIDs) == 1 && p.UIDs[0].Count == 1
	switch err := fakeid.Supported(); {
	case single:
		return everything, err
	case p.UserNS && err == nil:
		return devices, nil
	}
	return nothing, nil
}

// listenerFD is the number that the listener has: the lowest, since but for the streams only high ones are open. A limit of open files leaves it alone.
const listenerFD = 3

// prepareAnswers makes what answers the process's calls. Where owners are real and nobody asked what else there is to say of files, nothing is.
func (r *run) prepareAnswers(s *sandbox.Streams, u *user.ExecUser) {
	owners := r.spec.Owners
	if owners == nil {
		owners = fakeroot.Over(fakeroot.Real{Owners: r.imitates == devices, Modes: true})
	}
	o := fakeid.Options{Mode: fakeid.Devices, Owners: owners, Mounts: r.owners, Umask: 0o022}
	switch r.imitates {
	case nothing:
		return
	case devices:
	case everything:
		o.Mode = fakeid.Everything
		o.Creds = identity.Credentials{UID: identity.Same(uint32(u.Uid)), GID: identity.Same(uint32(u.Gid)), Groups: []uint32{uint32(u.Gid)}}
		for _, g := range u.Sgids {
			if !slices.Contains(o.Creds.Groups, uint32(g)) {
				o.Creds.Groups = append(o.Creds.Groups, uint32(g))
			}
		}
		slices.Sort(o.Creds.Groups) // as the kernel does
		r.giveStreams(s, owners, u)
	}
	r.answers = fakeid.New(o)
}

// giveStreams says that the pipes are the user's, who may open them by name (/dev/stdout).
func (r *run) giveStreams(s *sandbox.Streams, owners *fakeroot.Table, u *user.ExecUser) {
	for _, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr} {
		var st unix.Stat_t
		if f == nil || u.Uid == 0 || unix.Fstat(int(f.Fd()), &st) != nil {
			continue
		}
		k := fakeroot.KeyOf(&st)
		owners.Set(k, fakeroot.Meta{UID: uint32(u.Uid)})
		r.forget = append(r.forget, func() { owners.Drop(k) })
	}
}

// listen installs the filter whose calls are answered, hands its listener over, and waits until somebody listens.
func (r *run) listen(p *program) {
	mode := fakeid.Devices
	if r.imitates == everything {
		mode = fakeid.Everything
	}
	const what = "having system calls answered"
	filter := fakeid.Filter(mode)
	prog := p.words(num(len(filter)), p.bytes(raw(filter))) // struct sock_fprog
	p.call(what, unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(fakeid.FilterFlags), prog)
	iov := p.words(p.bytes([]byte{0}), num(1))
	rights := unix.UnixRights(listenerFD)
	msg := p.words(num(0), num(0), iov, num(1), p.bytes(rights), num(len(rights)), num(0)) // struct msghdr
	p.call(what, unix.SYS_SENDMSG, regReport.value(), msg, num(unix.MSG_NOSIGNAL))
	p.call(what, unix.SYS_CLOSE, num(listenerFD))
	p.call(what, unix.SYS_READ, regReport.value(), p.bytes([]byte{0}), num(1))
}

// pause lets this process look at the other one before that executes anything.
func (r *run) pause(p *program) {
	const what = "waiting for the builder"
	b := p.bytes([]byte{0})
	p.call(what, unix.SYS_WRITE, regReport.value(), b, num(1))
	p.call(what, unix.SYS_READ, regReport.value(), b, num(1))
}

// answer begins to answer calls if a listener has come with a message.
func (r *run) answer(oob []byte, pid int) error {
	if r.answers == nil {
		return nil
	}
	fds, err := rights(oob)
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("receiving the listener of its system calls: %w", errors.Join(err, unix.EPROTO))
	}
	return r.answers.Serve(os.NewFile(uintptr(fds[0]), "listener"), pid)
}

// stopAnswering comes when no process is left.
func (r *run) stopAnswering() error {
	defer func() {
		for _, f := range r.forget {
			f()
		}
	}()
	if r.answers == nil {
		return nil
	}
	return r.answers.Close()
}
