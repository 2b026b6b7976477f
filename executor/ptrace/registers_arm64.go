package ptrace

import (
	"debug/elf"
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

const auditArch = unix.AUDIT_ARCH_AARCH64

// redZone is none on arm64 (AAPCS64, 6.4.5); a little room costs nothing.
const redZone = 128

// Register sets (Linux, include/uapi/linux/elf.h).
const (
	ntPrstatus      = 1
	ntArmSystemCall = 0x404
)

func readRegisters(tid int) (*arm64Registers, error) {
	var r arm64Registers
	return &r, unix.PtraceGetRegSetArm64(tid, ntPrstatus, (*unix.PtraceRegsArm64)(unsafe.Pointer(&r)))
}

func writeRegisters(tid int, r *arm64Registers) error {
	return unix.PtraceSetRegSetArm64(tid, ntPrstatus, (*unix.PtraceRegsArm64)(unsafe.Pointer(r)))
}

// denyCall makes the call that tid is stopped before return e.
func denyCall(tid int, r *arm64Registers, e unix.Errno) error {
	if err := setCall(tid, ^uint32(0)); err != nil {
		return err
	}
	r.deny(e)
	return writeRegisters(tid, r)
}

// restoreCall gives tid, stopped after a call, the arguments back that it made it with.
func restoreCall(tid int, args [6]uint64) error {
	r, err := readRegisters(tid)
	if err != nil {
		return err
	}
	r.restoreArgs(args)
	return writeRegisters(tid, r)
}

const nativeMachine = elf.EM_AARCH64

func setCall(tid int, nr uint32) error {
	b := binary.NativeEndian.AppendUint32(nil, nr)
	iov := unix.Iovec{Base: &b[0], Len: 4}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SETREGSET, uintptr(tid), ntArmSystemCall, uintptr(unsafe.Pointer(&iov)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// changeCall makes the call that tid is stopped before another one.
func changeCall(tid int, r *arm64Registers, nr int, args [6]uint64) error {
	if err := setCall(tid, uint32(nr)); err != nil {
		return err
	}
	r.setArgs(args)
	return writeRegisters(tid, r)
}
