//go:build cgo && seccomp

package namespace

import (
	"io"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/sandbox"
)

// eval carries a filter out as the kernel does.
func eval(t *testing.T, prog []unix.SockFilter, arch, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	words := []uint32{nr, arch, 0, 0}
	for _, a := range args {
		words = append(words, uint32(a), uint32(a>>32))
	}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = words[in.K/4]
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= in.K)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, in.Code)
		}
	}
	t.Fatal("THE FILTER HAS NO END!")
	return 0
}

// byLibseccomp compiles a profile as runc does.
func byLibseccomp(t *testing.T, profile *specs.LinuxSeccomp) []unix.SockFilter {
	t.Helper()
	f, err := libseccomp.NewFilter(libseccomp.ActErrno.SetReturnCode(int16(unix.EPERM)))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []libseccomp.ScmpArch{libseccomp.ArchAMD64, libseccomp.ArchX86} {
		if err := f.AddArch(a); err != nil {
			t.Fatal(err)
		}
	}
	ops := map[specs.LinuxSeccompOperator]libseccomp.ScmpCompareOp{
		specs.OpEqualTo: libseccomp.CompareEqual, specs.OpGreaterThan: libseccomp.CompareGreater, specs.OpLessThan: libseccomp.CompareLess,
		specs.OpMaskedEqual: libseccomp.CompareMaskedEqual,
	}
	for _, s := range profile.Syscalls {
		act := libseccomp.ActAllow
		if s.Action == specs.ActErrno {
			act = libseccomp.ActErrno.SetReturnCode(int16(*s.ErrnoRet))
		}
		var conds []libseccomp.ScmpCondition
		for _, a := range s.Args {
			c, err := libseccomp.MakeCondition(a.Index, ops[a.Op], a.Value, a.ValueTwo)
			if err != nil {
				t.Fatal(err)
			}
			conds = append(conds, c)
		}
		for _, name := range s.Names {
			n, err := libseccomp.GetSyscallFromName(name)
			if err != nil {
				continue
			}
			if len(conds) > 0 {
				err = f.AddRuleConditional(n, act, conds)
			} else {
				err = f.AddRule(n, act)
			}
			if err != nil {
				t.Fatal(name, err)
			}
		}
	}
	file, err := os.CreateTemp(t.TempDir(), "bpf")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	prog := make([]unix.SockFilter, len(data)/8)
	copy(raw(prog), data)
	return prog
}

// The filter decides as libseccomp's does, for every system call up to the newest of the profile, with arguments at every limit.
func TestFilterIsLibseccomps(t *testing.T) {
	all, err := abis()
	if err != nil {
		t.Fatal(err)
	}
	for _, caps := range [][]string{sandbox.DefaultCapabilities(), {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}, nil} {
		for _, syncs := range []bool{false, true} {
			profile, err := sandbox.Profile(caps, syncs)
			if err != nil {
				t.Fatal(err)
			}
			f, err := compile(profile)
			if err != nil {
				t.Fatal(err)
			}
			if all[0].name != specs.ArchX86_64 {
				t.Skip("written for amd64")
			}
			want := byLibseccomp(t, profile)
			t.Logf("%d instructions, libseccomp's %d", len(f.ops), len(want))
			for i, abi := range all {
				theirs := []libseccomp.ScmpArch{libseccomp.ArchAMD64, libseccomp.ArchX86}[i]
				compareFilters(t, f.ops, want, abi, last(profile, abi), newer(profile, abi, theirs))
			}
		}
	}
}

// last is the highest number that a profile names.
func last(profile *specs.LinuxSeccomp, abi abi) uint32 {
	var n uint32
	for _, s := range profile.Syscalls {
		for _, name := range s.Names {
			if m, ok := abi.number(name); ok {
				n = max(n, m)
			}
		}
	}
	return n
}

// newer are the system calls that a profile names and libseccomp, which may be older, does not know.
func newer(profile *specs.LinuxSeccomp, abi abi, theirs libseccomp.ScmpArch) map[uint32]bool {
	set := map[uint32]bool{}
	for _, s := range profile.Syscalls {
		for _, name := range s.Names {
			if n, ok := abi.number(name); ok {
				if _, err := libseccomp.GetSyscallFromNameByArch(name, theirs); err != nil {
					set[n] = true
				}
			}
		}
	}
	return set
}

func compareFilters(t *testing.T, got, want []unix.SockFilter, abi abi, last uint32, skip map[uint32]bool) {
	t.Helper()
	values := []uint64{0, 1, 2, 8, 9, 16, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xffffffff, 0x10000000, 0x7e020000, 0x02000000, 0x01200011, 0xff0fff}
	for nr := range last + 1 {
		if skip[nr] {
			continue
		}
		for _, v := range values {
			args := [6]uint64{v, v, v}
			if g, w := eval(t, got, abi.audit, nr, args), eval(t, want, abi.audit, nr, args); g != w {
				t.Errorf("%s %d(%#x): %#x, libseccomp says %#x", abi.name, nr, v, g, w)
				break
			}
		}
	}
	enosys := unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	for _, nr := range []uint32{last + 1, 5000, x32Bit, x32Bit | 1, 0xffffffff} {
		if g := eval(t, got, abi.audit, nr, [6]uint64{}); g != enosys {
			t.Errorf("%s %d: %#x, want ENOSYS", abi.name, nr, g)
		}
	}
	if g := eval(t, got, abi.audit^1, 1, [6]uint64{}); g != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("an unknown architecture: %#x", g)
	}
}

// Bits that the kernel does not look at do not decide: socket(AF_ALG) is refused in every spelling.
func TestFilterOfUpperBits(t *testing.T) {
	profile, err := sandbox.Profile(sandbox.DefaultCapabilities(), false)
	if err != nil {
		t.Fatal(err)
	}
	f, err := compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	all, err := abis()
	if err != nil {
		t.Fatal(err)
	}
	n, _ := all[0].number("socket")
	for _, family := range []uint64{38, 40, 1<<32 | 38, 1<<63 | 40} {
		if g := eval(t, f.ops, all[0].audit, n, [6]uint64{family}); g == unix.SECCOMP_RET_ALLOW {
			t.Errorf("SOCKET(%#x) IS ALLOWED!", family)
		}
	}
}

func TestUnknownRules(t *testing.T) {
	ok := specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for name, change := range map[string]func(*specs.LinuxSeccomp){
		"default": func(p *specs.LinuxSeccomp) { p.DefaultAction = "SCMP_ACT_SOMETHING" },
		"flag":    func(p *specs.LinuxSeccomp) { p.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_LOG"} },
		"action": func(p *specs.LinuxSeccomp) {
			p.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActNotify}}
		},
		"operator": func(p *specs.LinuxSeccomp) {
			p.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_X"}}}}
		},
		"64 bits": func(p *specs.LinuxSeccomp) {
			p.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: 1 << 32}}}}
		},
		"two actions": func(p *specs.LinuxSeccomp) {
			p.Syscalls = []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}, {Names: slices.Repeat([]string{"read"}, 1), Action: specs.ActErrno}}
		},
	} {
		p := ok
		change(&p)
		if _, err := compile(&p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
