package namespace

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A program is what a new process does before it executes the command: system calls, one after another, with a few jumps. It is made
// by this process, where there is Go to make it with, and carried out by a copy of the launcher, where nothing but system calls is possible.
//
// Its encoding is that of this machine and this build: both ends are the same executable.
type program struct {
	ops    []op
	data   []byte
	relocs []reloc
	// failures say what it means if an operation fails, by its index.
	failures []failure
}

// op is one system call.
type op struct {
	nr   uint64
	args [6]uint64
	// kinds say what args are.
	kinds [6]argKind
	// keep is the register that takes the result; noRegister for none.
	keep register
	// except is an error number that counts as success, 0 for none.
	except uint8
	// onError and onSuccess are how many operations further it goes on; onError 0 ends the program with a report.
	onError, onSuccess uint16
	_                  uint16
}

type argKind uint8

const (
	immediate argKind = iota
	// inData is an offset in data, handed over as an address.
	inData
	// inRegister is the number of a register.
	inRegister
)

// register holds a descriptor. The first ones are set before the program begins.
type register uint8

const (
	// regReport is the pipe for the report.
	regReport register = iota
	regStdin
	regStdout
	regStderr
	regRoot
	regTree
	regTarget
	regTerminal
	regCount
	noRegister register = 0xff
)

// opFail is no system call: it ends the program with a report of the error number in its first argument.
const opFail = ^uint64(0)

// reloc is a place in data, a multiple of 8, that takes the address of another place in data.
type reloc struct{ slot, target uint32 }

// failure is what the failure of an operation means.
type failure struct {
	kind failureKind
	text string
}

type failureKind uint8

const (
	// failedSetup means that the sandbox could not be made; text says what was being done.
	failedSetup failureKind = iota
	// failedLookup means that the command is not there or no program; text is its beginning, the error number its end.
	failedLookup
	// failedSearch means that the command is in no directory of PATH.
	failedSearch
	// failedExec means that the kernel did not execute the command.
	failedExec
)

// value is an argument of a system call.
type value struct {
	v    uint64
	kind argKind
}

func num[T ~int | ~int64 | ~uint32 | ~uint64 | ~uintptr](n T) value { return value{v: uint64(n)} }

func (r register) value() value { return value{v: uint64(r), kind: inRegister} }

func cwd() value { return num(unix.AT_FDCWD) }

// align makes the length of data a multiple of 8.
func (p *program) align() { p.data = append(p.data, make([]byte, -len(p.data)&7)...) }

func (p *program) bytes(b []byte) value {
	p.align()
	off := len(p.data)
	p.data = append(p.data, b...)
	return value{v: uint64(off), kind: inData}
}

// str is a string with its final NUL.
func (p *program) str(s string) value { return p.bytes(append([]byte(s), 0)) }

// words are 64-bit numbers, or addresses where the value is in data.
func (p *program) words(vs ...value) value {
	b := make([]byte, 0, 8*len(vs))
	for _, v := range vs {
		b = binary.NativeEndian.AppendUint64(b, v.v)
	}
	at := p.bytes(b)
	for i, v := range vs {
		if v.kind == inData {
			p.relocs = append(p.relocs, reloc{uint32(at.v) + uint32(8*i), uint32(v.v)})
		}
	}
	return at
}

// strings is a NULL-terminated array of strings, as execve(2) wants it.
func (p *program) strings(list []string) value {
	vs := make([]value, 0, len(list)+1)
	for _, s := range list {
		vs = append(vs, p.str(s))
	}
	return p.words(append(vs, num(0))...)
}

// call adds a system call; what is how its failure is reported. The result may be changed.
func (p *program) call(what string, nr uintptr, args ...value) *op {
	o := op{nr: uint64(nr), keep: noRegister, onSuccess: 1}
	for i, a := range args {
		o.args[i], o.kinds[i] = a.v, a.kind
	}
	p.ops = append(p.ops, o)
	p.failures = append(p.failures, failure{text: what})
	return &p.ops[len(p.ops)-1]
}

// fails says what the failure of the last operation means.
func (p *program) fails(kind failureKind, text string) {
	p.failures[len(p.failures)-1] = failure{kind: kind, text: text}
}

// header goes before the encoding.
type header struct {
	cloneFlags        uint64
	ops, relocs, data uint32
	_                 uint32
}

// raw are the bytes of something without pointers.
func raw[T any](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// encode returns the header and what follows it.
func (p *program) encode(cloneFlags uint64) (head, body []byte) {
	h := []header{{cloneFlags: cloneFlags, ops: uint32(len(p.ops)), relocs: uint32(len(p.relocs)), data: uint32(len(p.data))}}
	body = make([]byte, 0, h[0].size())
	body = append(body, raw(p.ops)...)
	body = append(body, raw(p.relocs)...)
	return raw(h), append(body, p.data...)
}

// size is how many bytes follow the header.
func (h *header) size() int {
	return int(h.ops)*int(unsafe.Sizeof(op{})) + int(h.relocs)*int(unsafe.Sizeof(reloc{})) + int(h.data)
}

// link makes addresses of the offsets in a body, which must lie at a multiple of 8 and stay where it is, and returns the operations.
func (h *header) link(body []byte) []op {
	opsLen := int(h.ops) * int(unsafe.Sizeof(op{}))
	ops := unsafe.Slice((*op)(unsafe.Pointer(&body[0])), h.ops)
	relocs := unsafe.Slice((*reloc)(unsafe.Pointer(&body[opsLen])), h.relocs)
	data := body[opsLen+int(h.relocs)*int(unsafe.Sizeof(reloc{})):]
	base := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(data))))
	for _, r := range relocs {
		binary.NativeEndian.PutUint64(data[r.slot:], base+uint64(r.target))
	}
	for i := range ops {
		for a, k := range ops[i].kinds {
			if k == inData {
				ops[i].args[a] += base
			}
		}
	}
	return ops
}
