//go:build cgo && seccomp

package namespace

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// Supported reports whether this program was built with what running processes needs, for a machine that it can filter system calls
// of: nothing is run unfiltered.
func Supported() error {
	_, err := abis()
	return err
}

// abis are the sets of system calls of this machine, its own first. libseccomp knows the numbers.
func abis() ([]abi, error) {
	switch runtime.GOARCH {
	case "amd64":
		return []abi{
			{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, numbers(libseccomp.ArchAMD64, nil)},
			{specs.ArchX86, unix.AUDIT_ARCH_I386, numbers(libseccomp.ArchX86, directI386())},
		}, nil
	case "arm64":
		return []abi{
			{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, numbers(libseccomp.ArchARM64, nil)},
			{specs.ArchARM, unix.AUDIT_ARCH_ARM, numbers(libseccomp.ArchARM, nil)},
		}, nil
	}
	return nil, fmt.Errorf("preparing to run processes: no filter of system calls for %s here", runtime.GOARCH)
}

// numbers looks names up. direct are those for which libseccomp has numbers of its own.
func numbers(arch libseccomp.ScmpArch, direct map[string]uint32) func(string) (uint32, bool) {
	return func(name string) (uint32, bool) {
		if n, ok := direct[name]; ok {
			return n, true
		}
		n, err := libseccomp.GetSyscallFromNameByArch(name, arch)
		return uint32(n), err == nil && n >= 0
	}
}

// directI386 are the calls that i386 once had only through socketcall and ipc (asm/unistd_32.h). Those two are calls of their own in the
// profile.
func directI386() map[string]uint32 {
	return map[string]uint32{
		"socket": 359, "socketpair": 360, "bind": 361, "connect": 362, "listen": 363, "accept4": 364, "getsockopt": 365, "setsockopt": 366,
		"getsockname": 367, "getpeername": 368, "sendto": 369, "sendmsg": 370, "recvfrom": 371, "recvmsg": 372, "shutdown": 373, "recvmmsg": 337, "sendmmsg": 345,
		"semget": 393, "semctl": 394, "shmget": 395, "shmctl": 396, "shmat": 397, "shmdt": 398, "msgget": 399, "msgsnd": 400, "msgrcv": 401,
		"msgctl": 402,
	}
}

// argOffset is where the lower half of an argument is.
func argOffset(arg uint) uint32 {
	off := offArgs + 8*uint32(arg)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		off += 4 // big-endian
	}
	return off
}
