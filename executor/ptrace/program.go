package ptrace

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/pkg/fakeroot"
)

// programs makes executable files startable without a root directory of their own. What the kernel itself looks up when it starts a program
// is the interpreter that a dynamic ELF file names (ld.so), and it would look on the machine. So a dynamic program is started from
// a copy whose header names the interpreter where it really is; everything else is the kernel's own work. The copy keeps the old name in
// memory, where ld.so reads it, and the base name, which becomes the process's name. Copies are kept by inode, size and time, so
// that one serves all steps.
type programs struct {
	dir string

	mu        sync.Mutex
	originals map[string]string // the path in the root filesystem by that of the copy
}

// program is what an execve becomes.
type program struct {
	// host is the file for the kernel to execute.
	host string
	// exe is what /proc/self/exe is to say.
	exe string
	// argv are the arguments: a script has its interpreter before it.
	argv []string
	// creds are those that a setuid program gives.
	setuid, setgid *uint32
}

func (p *programs) original(host string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	exe, ok := p.originals[host]
	return exe, ok
}

// errForeign is for a program that this machine executes in another mode, which cannot be supervised.
var errForeign = errors.New("a 32-bit program")

// header is what execve(2) looks at.
type header struct {
	static      bool
	interpreter string
	foreign     bool
}

const maxInterpreter = unix.PathMax

// readHeader reads the header of an ELF file. ENOEXEC is for one that none could execute.
func readHeader(f io.ReaderAt) (header, error) {
	e, err := elf.NewFile(f)
	if err != nil {
		return header{}, unix.ENOEXEC
	}
	if e.Machine != nativeMachine {
		if e.Class == elf.ELFCLASS32 && (e.Machine == elf.EM_386 || e.Machine == elf.EM_ARM) {
			return header{}, errForeign
		}
		return header{foreign: true}, nil
	}
	if e.Class != elf.ELFCLASS64 {
		return header{}, errForeign // x32
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz < 2 || p.Filesz > maxInterpreter {
			return header{}, unix.ENOEXEC
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return header{}, unix.ENOEXEC
		}
		return header{interpreter: string(bytes.TrimRight(b, "\x00"))}, nil
	}
	return header{static: true}, nil
}

// copyOf returns a copy of the file at, called base, that names interpreter; "" leaves the header as it is. stable is for files that are
// never changed in place.
func (p *programs) copyOf(at *place, base, interpreter string, stable bool) (string, error) {
	st := &at.st
	id := fmt.Sprintf("%d %d %d %d.%d %s", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, interpreter)
	if !stable {
		id += fmt.Sprintf(" %d.%d", st.Ctim.Sec, st.Ctim.Nsec)
	}
	sum := sha256.Sum256([]byte(id))
	dir := filepath.Join(p.dir, hex.EncodeToString(sum[:12]))
	name := filepath.Join(dir, base)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := os.Lstat(name); err != nil {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
		if err := writeCopy(name, at.file(), st.Size, interpreter); err != nil {
			return "", err
		}
	}
	p.originals[name] = at.path
	return name, nil
}

func writeCopy(name, from string, size int64, interpreter string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = os.Rename(out.Name(), name)
		}
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	if err := fakeroot.CopyFile(out, in, size); err != nil {
		return err
	}
	if interpreter != "" {
		if err := setInterpreter(out, size, interpreter); err != nil {
			return err
		}
	}
	return out.Chmod(0o700)
}

// ELF64 layout (elf(5)): where a header has the program headers, and where those have what is changed.
const (
	elfPhoff, elfPhentsize, elfPhnum = 32, 54, 56
	progType, progOffset, progFilesz = 0, 8, 32
)

// setInterpreter appends the name of an interpreter to an ELF file of size bytes and has its PT_INTERP point there. Its place in memory,
// where programs look, still has the old name.
func setInterpreter(f *os.File, size int64, interpreter string) error {
	e, err := elf.NewFile(f)
	if err != nil {
		return unix.ENOEXEC
	}
	var head [64]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return err
	}
	phoff, phentsize := int64(e.ByteOrder.Uint64(head[elfPhoff:])), int64(e.ByteOrder.Uint16(head[elfPhentsize:]))
	for i := range int64(e.ByteOrder.Uint16(head[elfPhnum:])) {
		at := phoff + i*phentsize
		var b [8]byte
		if _, err := f.ReadAt(b[:4], at+progType); err != nil {
			return err
		}
		if elf.ProgType(e.ByteOrder.Uint32(b[:])) != elf.PT_INTERP {
			continue
		}
		if _, err := f.WriteAt([]byte(interpreter+"\x00"), size); err != nil {
			return err
		}
		for off, v := range map[int64]uint64{progOffset: uint64(size), progFilesz: uint64(len(interpreter) + 1)} {
			e.ByteOrder.PutUint64(b[:], v)
			if _, err := f.WriteAt(b[:], at+off); err != nil {
				return err
			}
		}
		return nil
	}
	return unix.ENOEXEC
}

// maxScript is how much of a script's first line counts, and maxScripts how often an interpreter may be a script itself (execve(2)).
const (
	maxScript  = 256
	maxScripts = 5
)

// program says what an execve of a file becomes. name is how the task called it.
func (r *resolver) program(at *place, name string, argv []string) (*program, error) {
	for range maxScripts {
		if err := r.mayExecute(at); err != nil {
			return nil, err
		}
		f, err := os.Open(at.file())
		if err != nil {
			return nil, unix.EACCES
		}
		head := make([]byte, maxScript)
		n, _ := f.ReadAt(head, 0)
		line, script := scriptLine(head[:n])
		if !script {
			p, err := r.binary(at, f)
			f.Close()
			if p != nil {
				p.argv = argv
			}
			return p, err
		}
		f.Close()
		interpreter, arg, _ := strings.Cut(line, " ")
		if interpreter == "" {
			return nil, unix.ENOEXEC
		}
		before := []string{interpreter}
		if arg = strings.TrimLeft(arg, " "); arg != "" {
			before = append(before, arg)
		}
		argv = append(append(before, name), argv[min(1, len(argv)):]...)
		next, err := r.find(unix.AT_FDCWD, interpreter, true)
		if err != nil {
			return nil, err
		}
		at.close()
		*at, name = next, interpreter
	}
	return nil, unix.ELOOP
}

// scriptLine returns what stands after #! in the first line.
func scriptLine(head []byte) (string, bool) {
	rest, ok := bytes.CutPrefix(head, []byte("#!"))
	if !ok {
		return "", false
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strings.Trim(strings.ReplaceAll(string(line), "\t", " "), " \x00"), true
}

func (r *resolver) mayExecute(at *place) error {
	if at.st.Mode&unix.S_IFMT != unix.S_IFREG || at.owners().Of(&at.st).Type != 0 {
		return unix.EACCES
	}
	return r.access(at, unix.X_OK)
}

// binary is program for what is no script.
func (r *resolver) binary(at *place, f *os.File) (*program, error) {
	h, err := readHeader(f)
	if errors.Is(err, errForeign) {
		r.remark(at.path + " is a 32-bit program, which --isolation=ptrace does not run")
		return nil, unix.ENOEXEC
	}
	if err != nil {
		return nil, err
	}
	p := &program{exe: at.path}
	if said := at.owners().Of(&at.st); said.Mode&unix.S_ISUID != 0 || said.Mode&unix.S_ISGID != 0 && said.Mode&unix.S_IXGRP != 0 {
		if said.Mode&unix.S_ISUID != 0 {
			p.setuid = &said.UID
		}
		if said.Mode&unix.S_ISGID != 0 && said.Mode&unix.S_IXGRP != 0 {
			p.setgid = &said.GID
		}
	}
	_, base := split(at.path)
	stable := at.owners().Shared(keyOf(at))
	if h.interpreter == "" && at.st.Mode&0o100 != 0 && at.path != "" {
		p.host, err = hostPath(at.fd)
		return p, err
	}
	var ld string
	if h.interpreter != "" {
		in, err := r.find(unix.AT_FDCWD, h.interpreter, true)
		if err != nil {
			return nil, err
		}
		defer in.close()
		_, ldBase := split(in.path)
		if ld, err = r.programs.copyOf(&in, ldBase, "", in.owners().Shared(keyOf(&in))); err != nil {
			return nil, unix.ENOEXEC
		}
	}
	if base == "" {
		base = "program" // it has no name: memfd_create(2)
	}
	if p.host, err = r.programs.copyOf(at, base, ld, stable); err != nil {
		return nil, unix.ENOEXEC
	}
	return p, nil
}
