package ptrace

import "golang.org/x/sys/unix"

// registers are those of a system call, whatever the machine calls them. What is specific to a machine is in the files registers_ARCH.go and
// calls_ARCH.go; the decoding itself is here, so that it is tested everywhere.
type registers struct {
	nr     int
	args   [6]uint64
	stack  uint64 // the stack pointer
	result int64
}

// amd64Registers is struct user_regs_struct of x86-64 (Linux, arch/x86/include/uapi/asm/ptrace.h).
type amd64Registers struct {
	R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi, OrigRax, Rip, Cs, Eflags, Rsp, Ss uint64
	FsBase, GsBase, Ds, Es, Fs, Gs                                                                             uint64
}

func (r *amd64Registers) decode() registers {
	return registers{
		nr: int(int64(r.OrigRax)), args: [6]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}, stack: r.Rsp, result: int64(r.Rax),
	}
}

func (r *amd64Registers) setArgs(a [6]uint64) {
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = a[0], a[1], a[2], a[3], a[4], a[5]
}

// deny makes the kernel skip the call and return e. It holds at a stop before the call.
func (r *amd64Registers) deny(e unix.Errno) { r.OrigRax, r.Rax = ^uint64(0), uint64(-int64(e)) }

// arm64Registers is struct user_pt_regs of arm64 (Linux, arch/arm64/include/uapi/asm/ptrace.h).
type arm64Registers struct {
	X              [31]uint64
	Sp, Pc, Pstate uint64
}

// decode reads the registers at a stop before a call, where x8 is its number; the first argument and the result share a register.
func (r *arm64Registers) decode() registers {
	return registers{
		nr: int(int32(r.X[8])), args: [6]uint64{r.X[0], r.X[1], r.X[2], r.X[3], r.X[4], r.X[5]}, stack: r.Sp, result: int64(r.X[0]),
	}
}

func (r *arm64Registers) setArgs(a [6]uint64) { copy(r.X[:6], a[:]) }

// restoreArgs puts the arguments back after the call, but for the first, which is the result now.
func (r *arm64Registers) restoreArgs(a [6]uint64) { copy(r.X[1:6], a[1:]) }

// deny sets the result; the kernel is told to skip the call by the number -1, which is no general register there (NT_ARM_SYSTEM_CALL).
func (r *arm64Registers) deny(e unix.Errno) { r.X[0] = uint64(-int64(e)) }
