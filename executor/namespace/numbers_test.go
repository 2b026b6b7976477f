//go:build cgo && seccomp

package namespace

import (
	"testing"

	"github.com/cairn-build/cairn/executor/sandbox"
	libseccomp "github.com/seccomp/libseccomp-golang"
)

// TestNumbersAreLibseccomps: each system call that the profile names has the number that libseccomp knows, on every architecture. What libseccomp does
// not know may be newer than it is.
func TestNumbersAreLibseccomps(t *testing.T) {
	archs := map[string][]libseccomp.ScmpArch{
		"amd64": {libseccomp.ArchAMD64, libseccomp.ArchX86}, "arm64": {libseccomp.ArchARM64, libseccomp.ArchARM},
	}
	for goarch, theirs := range archs {
		ours, err := abisOf(goarch)
		if err != nil {
			t.Fatal(err)
		}
		profile, err := sandbox.Profile(sandbox.DefaultCapabilities(), false)
		if err != nil {
			t.Fatal(err)
		}
		for i, abi := range ours {
			checked := 0
			for _, s := range profile.Syscalls {
				for _, name := range s.Names {
					want, err := libseccomp.GetSyscallFromNameByArch(name, theirs[i])
					if err != nil || want < 0 {
						continue // it has none, or one that only libseccomp itself understands
					}
					checked++
					if got, ok := abi.number(name); !ok || got != uint32(want) {
						t.Errorf("%s: %s is %d, %v; libseccomp says %d", abi.name, name, got, ok, want)
					}
				}
			}
			if checked < 200 {
				t.Errorf("%s: only %d names were compared", abi.name, checked)
			}
		}
	}
}
