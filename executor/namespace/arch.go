package namespace

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Supported reports whether system calls can be filtered on a machine of this architecture: nothing is run unfiltered.
func Supported() error {
	_, err := abis()
	return err
}

// abis are the sets of system calls of this machine, its own first.
func abis() ([]abi, error) { return abisOf(runtime.GOARCH) }

func abisOf(goarch string) ([]abi, error) {
	switch goarch {
	case "amd64":
		return []abi{
			{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, numbers(arch.X86_64, nil)},
			{specs.ArchX86, unix.AUDIT_ARCH_I386, numbers(arch.I386, nil)},
		}, nil
	case "arm64":
		return []abi{
			{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, numbers(arch.AARCH64, map[string]uint32{"newfstatat": 79})},
			{specs.ArchARM, unix.AUDIT_ARCH_ARM, numbers(arch.ARM, privateARM())},
		}, nil
	}
	return nil, fmt.Errorf("preparing to run processes: no filter of system calls for %s here", goarch)
}

// numbers looks names up. more are those that the table has not.
func numbers(table *arch.Info, more map[string]uint32) func(string) (uint32, bool) {
	return func(name string) (uint32, bool) {
		if n, ok := more[name]; ok {
			return n, true
		}
		n, ok := table.SyscallNames[name]
		return uint32(n), ok
	}
}

// privateARM are the calls that only ARM has, beyond the table (asm/unistd.h, __ARM_NR_BASE).
func privateARM() map[string]uint32 {
	return map[string]uint32{"breakpoint": 0xf0001, "cacheflush": 0xf0002, "set_tls": 0xf0005}
}

// argOffset is where the lower half of an argument is.
func argOffset(arg uint) uint32 {
	off := offArgs + 8*uint32(arg)
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		off += 4 // big-endian
	}
	return off
}
