package ptrace

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

// A stop before openat(AT_FDCWD, path, O_RDONLY|O_CLOEXEC) of glibc, as each machine has it.
func TestDecode(t *testing.T) {
	want := registers{nr: 257, args: [6]uint64{0xffffff9c, 0x7f5c1a2b3040, 0x80000, 0, 5, 6}, stack: 0x7ffd11223340, result: -38}
	amd64 := amd64Registers{
		OrigRax: 257, Rdi: 0xffffff9c, Rsi: 0x7f5c1a2b3040, Rdx: 0x80000, R10: 0, R8: 5, R9: 6, Rsp: 0x7ffd11223340,
		Rax: ^uint64(37), Rcx: 0x7f5c1a2b9999, R11: 0x246, Rip: 0x7f5c1a2b9999,
	}
	if got := amd64.decode(); got != want {
		t.Errorf("amd64: %+v, want %+v", got, want)
	}
	arm64 := arm64Registers{Sp: 0xffffc8a01230, Pc: 0xffff9c3d4420}
	copy(arm64.X[:], []uint64{0xffffff9c, 0xffff9c3f0010, 0x80000, 0, 5, 6, 7, 8, 56})
	want = registers{
		nr: 56, args: [6]uint64{0xffffff9c, 0xffff9c3f0010, 0x80000, 0, 5, 6}, stack: 0xffffc8a01230, result: 0xffffff9c,
	}
	if got := arm64.decode(); got != want {
		t.Errorf("arm64: %+v, want %+v", got, want)
	}
}

// Arguments are put back after a call without touching its result, which on arm64 is where the first of them was.
func TestRestore(t *testing.T) {
	args := [6]uint64{1, 2, 3, 4, 5, 6}
	amd64 := amd64Registers{Rax: 77, Rip: 99}
	amd64.setArgs(args)
	if got := amd64.decode(); got.args != args || got.result != 77 || amd64.Rip != 99 {
		t.Errorf("amd64: %+v", got)
	}
	amd64.deny(unix.ENOENT)
	if got := amd64.decode(); got.nr != -1 || got.result != -int64(unix.ENOENT) {
		t.Errorf("amd64, denied: %+v", got)
	}
	arm64 := arm64Registers{}
	arm64.X[0] = 77
	arm64.restoreArgs(args)
	if got := arm64.decode(); !reflect.DeepEqual(got.args[1:], args[1:]) || got.result != 77 {
		t.Errorf("arm64: %+v", got)
	}
	arm64.deny(unix.EPERM)
	if got := arm64.decode(); got.result != -int64(unix.EPERM) {
		t.Errorf("arm64, denied: %+v", got)
	}
}
