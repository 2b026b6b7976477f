package namespace

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/process"
	"github.com/cairn-build/cairn/executor/sandbox"
)

// Numbers that descriptors get, far from those in use.
const (
	reportFD   = 100
	terminalFD = 101
)

// names sets the host name and the rest of what belongs to the new namespaces.
func (r *run) names(p *program) error {
	host, err := r.place.HostnameOf(r.spec)
	if err != nil {
		return err
	}
	if host != "" {
		p.call("setting the host name", unix.SYS_SETHOSTNAME, p.str(host), num(len(host)))
	}
	// The caller's keys are not for the sandbox.
	p.call("making a session keyring", unix.SYS_KEYCTL, num(unix.KEYCTL_JOIN_SESSION_KEYRING), num(0)).except = uint8(unix.ENOSYS)
	p.call("setting the umask", unix.SYS_UMASK, num(0o022))
	if r.spec.Network == executor.NetworkNone {
		const what = "bringing up the loopback interface"
		p.call(what, unix.SYS_SOCKET, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0)).keep = regTarget
		ifreq := make([]byte, 40)
		copy(ifreq, "lo")
		ifreq[unix.IFNAMSIZ] = unix.IFF_UP
		p.call(what, unix.SYS_IOCTL, regTarget.value(), num(unix.SIOCSIFFLAGS), p.bytes(ifreq))
	}
	return nil
}

// limits sets the resource limits.
func (r *run) limits(p *program) error {
	list, err := process.Rlimits(r.spec.Ulimits)
	if err != nil {
		return err
	}
	if r.launcher.nofile != nil && !slices.ContainsFunc(list, func(l process.Rlimit) bool { return l.Type == unix.RLIMIT_NOFILE }) {
		list = append(list, process.Rlimit{Type: unix.RLIMIT_NOFILE, Soft: r.launcher.nofile.Cur, Hard: r.launcher.nofile.Max})
	}
	for _, l := range list {
		p.call("setting a resource limit", unix.SYS_PRLIMIT64, num(0), num(l.Type), p.words(num(l.Soft), num(l.Hard)), num(0))
	}
	return nil
}

// streams gives the process its streams and takes every other descriptor.
func (r *run) streams(p *program, s *sandbox.Streams, u *user.ExecUser) {
	const what = "connecting the streams"
	if s.Terminal != nil {
		r.terminal(p, s.Terminal, u)
	} else {
		if s.Stdin == nil {
			p.call(what, unix.SYS_OPENAT, cwd(), p.str("/dev/null"), num(unix.O_RDONLY|unix.O_CLOEXEC), num(0)).keep = regStdin
		}
		for i, reg := range []register{regStdin, regStdout, regStderr} {
			if u.Uid != 0 && r.imitates != everything && (i != 0 || s.Stdin != nil) {
				// Pipes: so that the user can open them by name (/dev/stdout).
				p.call(what, unix.SYS_FCHOWN, reg.value(), num(u.Uid), num(-1))
			}
			p.call(what, unix.SYS_DUP3, reg.value(), num(i), num(0))
		}
	}
	p.call(what, unix.SYS_DUP3, regReport.value(), num(reportFD), num(unix.O_CLOEXEC)).keep = regReport
	p.call(what, unix.SYS_CLOSE_RANGE, num(3), num(reportFD-1), num(0))
	p.call(what, unix.SYS_CLOSE_RANGE, num(reportFD+1), num(uint32(1<<32-1)), num(0))
}

// terminal makes a terminal in the sandbox's devpts, which is the process's from now on, and sends its other side out.
func (r *run) terminal(p *program, t *sandbox.Terminal, u *user.ExecUser) {
	const what = "making a terminal"
	p.call(what, unix.SYS_OPENAT, cwd(), p.str("/dev/pts/ptmx"), num(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC), num(0)).keep = regTarget
	master := regTarget.value()
	p.call(what, unix.SYS_IOCTL, master, num(unix.TIOCSPTLCK), p.bytes(make([]byte, 4)))
	size := []unix.Winsize{{Row: t.Height, Col: t.Width}}
	p.call(what, unix.SYS_IOCTL, master, num(unix.TIOCSWINSZ), p.bytes(raw(size)))
	p.call(what, unix.SYS_IOCTL, master, num(unix.TIOCGPTPEER), num(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).keep = regTerminal
	if r.imitates != everything {
		p.call(what, unix.SYS_FCHOWN, regTerminal.value(), num(u.Uid), num(-1))
	}
	// It is the first one of this devpts.
	p.call(what, unix.SYS_MKNODAT, cwd(), p.str("/dev/console"), num(unix.S_IFREG|0o600), num(0))
	p.call(what, unix.SYS_MOUNT, p.str("/dev/pts/0"), p.str("/dev/console"), num(0), num(unix.MS_BIND), num(0))
	p.call(what, unix.SYS_DUP3, master, num(terminalFD), num(unix.O_CLOEXEC))
	iov := p.words(p.bytes([]byte{0}), num(1))
	rights := unix.UnixRights(terminalFD)
	msg := p.words(num(0), num(0), iov, num(1), p.bytes(rights), num(len(rights)), num(0)) // struct msghdr
	p.call(what, unix.SYS_SENDMSG, regStdin.value(), msg, num(unix.MSG_NOSIGNAL))
	for fd := range 3 {
		p.call(what, unix.SYS_DUP3, regTerminal.value(), num(fd), num(0))
	}
	p.call(what, unix.SYS_IOCTL, num(0), num(unix.TIOCSCTTY), num(0))
}

// workingDirectory changes to it, after making it where a step before has removed it. All descriptors that lead outside are closed by now.
func (r *run) workingDirectory(p *program) {
	dir := path.Clean("/" + r.spec.Process.Dir)
	what := "changing to the working directory " + dir
	o := p.call(what, unix.SYS_CHDIR, p.str(dir))
	if dir == "/" {
		return
	}
	at := len(p.ops) - 1
	o.onError = 1
	for i := range dir {
		if i > 0 && dir[i] == '/' {
			p.call(what, unix.SYS_MKDIRAT, cwd(), p.str(dir[:i]), num(0o755)).except = uint8(unix.EEXIST)
		}
	}
	p.call(what, unix.SYS_MKDIRAT, cwd(), p.str(dir), num(0o755)).except = uint8(unix.EEXIST)
	p.call(what, unix.SYS_CHDIR, p.str(dir))
	p.ops[at].onSuccess = uint16(len(p.ops) - at)
}

// identity takes from the process what it must not be able to do, and makes it the user's. The filter comes first: it can be set
// only with the capability that is taken next.
func (r *run) identity(p *program, u *user.ExecUser) error {
	caps := slices.Clone(r.place.Caps)
	if !r.insecure() {
		want := sandbox.DefaultCapabilities()
		caps = slices.DeleteFunc(caps, func(c string) bool { return !slices.Contains(want, c) })
		filter, err := r.filterFor(caps)
		if err != nil {
			return err
		}
		prog := p.words(num(len(filter.ops)), p.bytes(raw(filter.ops))) // struct sock_fprog
		p.call("setting the filter of system calls", unix.SYS_SECCOMP, num(unix.SECCOMP_SET_MODE_FILTER), num(filter.flags), prog)
	}
	if r.imitates == devices {
		r.listen(p)
	}
	var set uint64
	for _, c := range capability.ListKnown() {
		if slices.Contains(caps, "CAP_"+strings.ToUpper(c.String())) {
			set |= 1 << uint(c)
		} else {
			// Capabilities that this kernel does not know are none.
			p.call("limiting capabilities", unix.SYS_PRCTL, num(unix.PR_CAPBSET_DROP), num(int(c)), num(0), num(0), num(0)).except = uint8(unix.EINVAL)
		}
	}
	// Nothing is inheritable or ambient (CVE-2022-24769).
	p.call("limiting capabilities", unix.SYS_PRCTL, num(unix.PR_CAP_AMBIENT), num(unix.PR_CAP_AMBIENT_CLEAR_ALL), num(0), num(0), num(0))
	if r.imitates != everything {
		r.becomeUser(p, u)
	}
	lo, hi := uint32(set), uint32(set>>32)
	data := []uint32{lo, lo, 0, hi, hi, 0} // effective, permitted, inheritable of struct __user_cap_data_struct, twice
	p.call("limiting capabilities", unix.SYS_CAPSET, p.bytes(raw([]uint32{unix.LINUX_CAPABILITY_VERSION_3, 0})), p.bytes(raw(data)))
	switch {
	case r.imitates == everything:
		// No call after this one is the kernel's alone to answer.
		p.call("giving up privileges", unix.SYS_PRCTL, num(unix.PR_SET_NO_NEW_PRIVS), num(1), num(0), num(0), num(0))
		r.listen(p)
	case r.imitates == nothing && r.place.SharedProc:
		r.pause(p)
	}
	return nil
}

// becomeUser makes the process the user's.
func (r *run) becomeUser(p *program, u *user.ExecUser) {
	const what = "changing the user"
	if r.place.Setgroups {
		groups := []uint32{uint32(u.Gid)}
		for _, g := range u.Sgids {
			groups = append(groups, uint32(g))
		}
		p.call(what, unix.SYS_SETGROUPS, num(len(groups)), p.bytes(raw(groups)))
	}
	p.call(what, unix.SYS_SETRESGID, num(u.Gid), num(u.Gid), num(u.Gid))
	// As with docker, the process has its capabilities until it executes the command, whoever the user is: an image's entry point may be
	// executable by root only. The execution takes them from all but root.
	p.call(what, unix.SYS_PRCTL, num(unix.PR_SET_KEEPCAPS), num(1), num(0), num(0), num(0))
	p.call(what, unix.SYS_SETRESUID, num(u.Uid), num(u.Uid), num(u.Uid))
}

// command executes it. Which file that is, is found as exec.LookPath of package os/exec does.
func (r *run) command(p *program, home string) error {
	env, err := environment(process.Environment(r.spec.Process.Env, home))
	if err != nil {
		return err
	}
	for _, a := range r.spec.Process.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return fmt.Errorf("running %q: an argument has a NUL in it", r.spec.Process.Args[0])
		}
	}
	argv, envp := p.strings(r.spec.Process.Args), p.strings(env)
	p.call("unblocking signals", unix.SYS_RT_SIGPROCMASK, num(unix.SIG_SETMASK), p.words(num(0)), num(0), num(8))
	name := r.spec.Process.Args[0]
	begin := fmt.Sprintf("exec: %q: ", name)
	if strings.Contains(name, "/") {
		p.execute(name, begin, argv, envp)
		return nil
	}
	for _, kv := range slices.Backward(env) {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range strings.Split(list, ":") {
			// What is relative is not searched, as in Go since 1.19: the command would depend on the working directory.
			if path.IsAbs(dir) {
				p.execute(path.Join(dir, name), "", argv, envp)
			}
		}
	}
	p.ops = append(p.ops, op{nr: opFail, args: [6]uint64{uint64(unix.ENOENT)}})
	p.failures = append(p.failures, failure{kind: failedSearch, text: begin})
	return nil
}

// execute adds the execution of one file. If it is no program, that is the end, reported with begin before it; with no begin, it goes on.
func (p *program) execute(file, begin string, argv, envp value) {
	const checks = 4
	name := p.str(file)
	onError := func(o *op, left int, text string) {
		if begin == "" {
			o.onError = uint16(left)
		}
		p.fails(failedLookup, text)
	}
	o := p.call("", unix.SYS_OPENAT, cwd(), name, num(unix.O_PATH|unix.O_CLOEXEC), num(0))
	onError(o, checks+1, begin+"stat "+file+": ")
	o = p.call("", unix.SYS_OPENAT, cwd(), name, num(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), num(0))
	o.onError = 2
	p.ops = append(p.ops, op{nr: opFail, args: [6]uint64{uint64(unix.EISDIR)}})
	p.failures = append(p.failures, failure{kind: failedLookup, text: begin})
	if begin == "" {
		p.ops[len(p.ops)-2].onSuccess = 4 // past this file
	}
	o = p.call("", unix.SYS_FACCESSAT2, cwd(), name, num(unix.X_OK), num(unix.AT_EACCESS))
	onError(o, 2, begin)
	p.call("", unix.SYS_EXECVE, name, argv, envp)
	p.fails(failedExec, "exec "+file+": ")
}

// environment takes out of env what is set twice: the last one counts.
func environment(env []string) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, kv := range slices.Backward(env) {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.IndexByte(kv, 0) >= 0 {
			return nil, fmt.Errorf("setting the environment: %q is not NAME=VALUE", k)
		}
		if !seen[k] {
			seen[k] = true
			out = append(out, kv)
		}
	}
	slices.Reverse(out)
	return out, nil
}
