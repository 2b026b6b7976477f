package ptrace

import (
	"debug/elf"
	"unsafe"

	"golang.org/x/sys/unix"
)

const auditArch = unix.AUDIT_ARCH_X86_64

// redZone is what a function may use below the stack pointer without moving it (System V ABI, AMD64 supplement, 3.2.2).
const redZone = 128

func readRegisters(tid int) (*amd64Registers, error) {
	var r amd64Registers
	return &r, unix.PtraceGetRegs(tid, (*unix.PtraceRegs)(unsafe.Pointer(&r)))
}

func writeRegisters(tid int, r *amd64Registers) error {
	return unix.PtraceSetRegs(tid, (*unix.PtraceRegs)(unsafe.Pointer(r)))
}

// denyCall makes the call that tid is stopped before return e.
func denyCall(tid int, r *amd64Registers, e unix.Errno) error {
	r.deny(e)
	return writeRegisters(tid, r)
}

// restoreCall gives tid, stopped after a call, the arguments back that it made it with.
func restoreCall(tid int, args [6]uint64) error {
	r, err := readRegisters(tid)
	if err != nil {
		return err
	}
	r.setArgs(args)
	return writeRegisters(tid, r)
}

const nativeMachine = elf.EM_X86_64

// changeCall makes the call that tid is stopped before another one.
func changeCall(tid int, r *amd64Registers, nr int, args [6]uint64) error {
	r.OrigRax = uint64(nr)
	r.setArgs(args)
	return writeRegisters(tid, r)
}
