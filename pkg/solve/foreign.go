package solve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/plan"
	"golang.org/x/sys/unix"
)

// A program of another architecture runs only where the kernel knows an interpreter for it (binfmt_misc). Without one execve fails after
// everything has been set up, with words that help nobody; here it is found out before.

// machine is what an ELF header says of the processor it is for.
type machine struct {
	class, data byte   // EI_CLASS, EI_DATA
	code        uint16 // e_machine
}

// arch is the name of an architecture in images, and of the emulator in QEMU.
type arch struct{ name, qemu string }

// arch returns the names of a machine, "" where it is none that images are made for.
func (m machine) arch() arch {
	little, wide := m.data == 1, m.class == 2
	switch {
	case m.code == 62:
		return arch{"amd64", "x86_64"}
	case m.code == 3:
		return arch{"386", "i386"}
	case m.code == 183 && little:
		return arch{"arm64", "aarch64"}
	case m.code == 40 && little:
		return arch{"arm", "arm"}
	case m.code == 243 && wide:
		return arch{"riscv64", "riscv64"}
	case m.code == 21 && little:
		return arch{"ppc64le", "ppc64le"}
	case m.code == 21:
		return arch{"ppc64", "ppc64"}
	case m.code == 22 && wide:
		return arch{"s390x", "s390x"}
	case m.code == 8 && little && wide:
		return arch{"mips64le", "mips64el"}
	case m.code == 8 && wide:
		return arch{"mips64", "mips64"}
	case m.code == 258:
		return arch{"loong64", "loongarch64"}
	}
	return arch{}
}

// native reports whether this machine's kernel runs such programs by itself. Where that depends on the processor (32 bits on one of 64) the
// answer is yes: then execve tells.
func (a arch) native() bool {
	switch runtime.GOARCH {
	case "amd64":
		return a.name == "amd64" || a.name == "386"
	case "arm64":
		return a.name == "arm64" || a.name == "arm"
	}
	return a.name == runtime.GOARCH
}

// elfHead is the length of the part of an ELF header that is read, and of what binfmt_misc looks at.
const elfHead = 20

// readMachine reads the head of an ELF file; ok is false for anything else.
func readMachine(r io.Reader) (m machine, ok bool) {
	var h [elfHead]byte
	if _, err := io.ReadFull(r, h[:]); err != nil || string(h[:4]) != "\x7fELF" {
		return machine{}, false
	}
	m.class, m.data = h[4], h[5]
	if m.data == 2 {
		m.code = binary.BigEndian.Uint16(h[18:])
	} else {
		m.code = binary.LittleEndian.Uint16(h[18:])
	}
	return m, true
}

// programOf finds the program that a command starts in a root filesystem, and what machine it is for. A script's is its interpreter's. ok
// is false where there is nothing to say: then execve will tell.
func programOf(root string, r *plan.Run) (name string, m machine, ok bool) {
	if len(r.Args) == 0 {
		return "", machine{}, false
	}
	for _, name = range candidates(r) {
		for range 4 { // as many interpreters as the kernel follows
			var script string
			if script, m, ok = look(root, name); script == "" {
				break
			}
			name = script
		}
		if ok {
			return name, m, true
		}
	}
	return "", machine{}, false
}

// candidates are the places where execve looks for a command.
func candidates(r *plan.Run) []string {
	name := r.Args[0]
	if path.IsAbs(name) {
		return []string{name}
	}
	if strings.Contains(name, "/") {
		return []string{path.Join(r.Dir, name)}
	}
	var out []string
	for _, kv := range r.Env {
		if dirs, isPath := strings.CutPrefix(kv, "PATH="); isPath {
			out = nil
			for _, d := range strings.Split(dirs, ":") {
				out = append(out, path.Join(r.Dir, d, name))
				if path.IsAbs(d) {
					out[len(out)-1] = path.Join(d, name)
				}
			}
		}
	}
	return out
}

// look reads the head of a file in a root filesystem: of a program, or of a script, whose interpreter it returns.
func look(root, name string) (script string, m machine, ok bool) {
	at, err := openIn(root, name)
	if err != nil {
		return "", machine{}, false
	}
	defer func() { _ = at.Close() }()
	if st, err := at.Stat(); err != nil || !st.Mode().IsRegular() {
		return "", machine{}, false
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
	if err != nil {
		return "", machine{}, false
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head)
	if line, isScript := strings.CutPrefix(string(head[:n]), "#!"); isScript {
		line, _, _ = strings.Cut(line, "\n")
		if words := strings.Fields(line); len(words) > 0 {
			return words[0], machine{}, false
		}
		return "", machine{}, false
	}
	m, ok = readMachine(strings.NewReader(string(head[:n])))
	return "", m, ok
}

// emulators remembers what the kernel said about running programs of other machines. It is safe for concurrent use.
type emulators struct {
	mu    sync.Mutex
	known map[machine]error
}

// ask tries to execute a program for m: nil where that works, ENOEXEC where no interpreter is registered, ENOENT where one is that
// cannot be found from inside of a root filesystem (it was registered without the flag F), and any other error where nothing could be
// tried.
func (e *emulators) ask(m machine, tempDir func(string) (string, error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err, ok := e.known[m]
	if !ok {
		err = probe(m, tempDir)
		if e.known == nil {
			e.known = map[machine]error{}
		}
		e.known[m] = err
	}
	return err
}

// probe executes an ELF header that has no program behind it, alone in a root filesystem. No kernel runs it by itself; an interpreter is
// started, and says that the file is no good.
func probe(m machine, tempDir func(string) (string, error)) error {
	dir, err := tempDir("probe-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	h := make([]byte, 64)
	copy(h, "\x7fELF")
	h[4], h[5], h[6] = m.class, m.data, 1
	var order binary.ByteOrder = binary.LittleEndian
	if m.data == 2 {
		order = binary.BigEndian
	}
	order.PutUint16(h[16:], 2) // ET_EXEC
	order.PutUint16(h[18:], m.code)
	order.PutUint32(h[20:], 1)
	if err := os.WriteFile(filepath.Join(dir, "probe"), h, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	cmd := exec.Command("/probe")
	cmd.Dir = "/"
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = cmd.Wait() // how it ends says nothing
	return nil
}

// foreign is a command whose program is for another machine.
type foreign struct {
	program string
	arch    arch
	stage   string
	err     error // of emulators.ask
}

// foreign finds out whether a command can run here at all; nil where its program is for this machine or an interpreter stands ready.
func (st *stage) foreign(root string, r *plan.Run) *foreign {
	name, m, ok := programOf(root, r)
	if !ok {
		return nil
	}
	a := m.arch()
	if a.name == "" || a.native() {
		return nil
	}
	err := st.emulators.ask(m, st.Store.TempDir)
	if err == nil {
		return nil
	}
	return &foreign{program: name, arch: a, stage: platformString(st.plan.Platform), err: err}
}

// before is the error that makes it needless to try; nil where it has to be tried.
func (f *foreign) before() error {
	if f == nil || !errors.Is(f.err, unix.ENOEXEC) {
		return nil
	}
	return hint.With(fmt.Errorf("%s is a program for %s (the stage is for %s), this machine is %s, and no interpreter for %s is registered with binfmt_misc",
		f.program, f.arch.name, f.stage, runtime.GOARCH, f.arch.name), f.advice())
}

// after explains an error of a command that was tried.
func (f *foreign) after(err error) error {
	var exit *executor.ExitError
	if f == nil || !errors.As(err, &exit) || exit.Code != 127 && exit.Code != 126 && exit.Code != 255 {
		return err
	}
	why := fmt.Sprintf("whether an interpreter is registered with binfmt_misc could not be found out (%v)", f.err)
	if errors.Is(f.err, unix.ENOENT) {
		why = "the interpreter that is registered with binfmt_misc is not in the root filesystem, where it is looked for because it was " +
			"registered without the flag F"
	}
	return hint.With(fmt.Errorf("%w: %s is a program for %s, this machine is %s, and %s", err, f.program, f.arch.name, runtime.GOARCH, why), f.advice())
}

// advice is how a machine gets what it lacks.
func (f *foreign) advice() string {
	return fmt.Sprintf("as root of this machine, register qemu-%s-static with binfmt_misc and the flag F (Debian: apt-get install qemu-user-static; "+
		"or `docker run --privileged --rm tonistiigi/binfmt --install %s`); or cross-compile: FROM --platform=$BUILDPLATFORM", f.arch.qemu, f.arch.name)
}

// attempt runs do unless the command of r cannot run here.
func (st *stage) attempt(ctx context.Context, root string, r *plan.Run, do func(context.Context) error) error {
	f := st.foreign(root, r)
	if err := f.before(); err != nil {
		return err
	}
	return f.after(do(ctx))
}
