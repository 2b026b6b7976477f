package exectest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

func mkfifo(path string) error { return unix.Mkfifo(path, 0o666) }

// A run that writes nothing leaves nothing: neither what had to be made to mount on, nor a changed time.
func testNothingLeftInRoot(t *testing.T, e executor.Executor) {
	root := Root(t)
	before := tree(t, root)
	spec := Shell(root, "test -d /proc/self -a -d /sys -a -c /dev/null -a -s /etc/hosts")
	spec.Mounts = []executor.Mount{
		{Type: executor.Tmpfs, Target: "/a/b/c"},
		{Type: executor.Bind, Source: "/etc/hostname", Target: "/run/secrets/x", ReadOnly: true},
		{Type: executor.Tmpfs, Target: "/a/b/c/d"},
	}
	must(t, os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600))
	spec.Mounts[1].Source = tempFile(t, "secret")
	output(t, e, spec)
	sameTree(t, "a run left something", before, tree(t, root))

	// What it does write stays, with the directories around it.
	output(t, e, Shell(root, "mkdir -p /srv/x; echo kept >/srv/x/y; echo z >/etc/new"))
	for name, want := range map[string]string{"srv/x/y": "kept\n", "etc/new": "z\n"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"proc", "sys", "dev", "etc/hosts", "etc/resolv.conf", "run", "a"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
}

func tempFile(t testing.TB, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(p, []byte(content), 0o644))
	must(t, os.Chmod(p, 0o644))
	return p
}

func testMounts(t *testing.T, e executor.Executor) {
	root := Root(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644))
	file := tempFile(t, "secret")
	spec := Shell(root, `cat /ro/f /file; echo
		echo x >/ro/g 2>/dev/null || echo ro
		echo x >/file 2>/dev/null || echo ro file
		echo written >/rw/g
		echo y >/tmpfs/y; stat -c %a /tmpfs; stat -f -c %T /tmpfs
		stat -c %a /mode
		echo x >/rotmp/x 2>/dev/null || echo ro tmpfs
		cat /tmpfs/nested/f; echo
		cat /rw/again/f; echo`)
	spec.Mounts = []executor.Mount{
		{Type: executor.Bind, Source: dir, Target: "/ro", ReadOnly: true},
		{Type: executor.Bind, Source: file, Target: "/file", ReadOnly: true},
		{Type: executor.Bind, Source: dir, Target: "/rw"},
		{Type: executor.Tmpfs, Target: "/tmpfs"},
		{Type: executor.Tmpfs, Target: "/mode", Mode: 0o750},
		{Type: executor.Tmpfs, Target: "/rotmp", ReadOnly: true},
		{Type: executor.Bind, Source: dir, Target: "/tmpfs/nested", ReadOnly: true},
		{Type: executor.Bind, Source: dir, Target: "/rw/again", ReadOnly: true},
	}
	want := "contentsecret\nro\nro file\n1777\ntmpfs\n750\nro tmpfs\ncontent\ncontent"
	if got := output(t, e, spec); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "g")); string(b) != "written\n" {
		t.Errorf("through /rw: %q, %v", b, err)
	}
}

func testTmpfsSize(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "head -c 2000000 /dev/zero >/small/big 2>/dev/null || echo full")
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/small", Size: 1 << 20}}
	if got := output(t, e, spec); got != "full" {
		t.Errorf("2 MB in a tmpfs of 1: %q", got)
	}
}

// Links of the image in a target lead to somewhere in the image, dangling ones too.
func testMountStubs(t *testing.T, e executor.Executor) {
	root := Root(t)
	for link, to := range map[string]string{
		"etc/resolv.conf": "../run/systemd/resolve/stub-resolv.conf",
		"var":             "/../../data/var",
		"abs":             "/home/ann/made",
		"loop":            "loop",
	} {
		must(t, os.Symlink(to, filepath.Join(root, link)))
	}
	before := tree(t, root)
	spec := Shell(root, "test -e /etc/resolv.conf && readlink /etc/resolv.conf; ls -d /data/var/cache /home/ann/made; ls /abs")
	spec.Process.User = "ann"
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "inside"), nil, 0o644))
	spec.Mounts = []executor.Mount{
		{Type: executor.Tmpfs, Target: "/var/cache"},
		{Type: executor.Bind, Source: dir, Target: "/abs", ReadOnly: true},
	}
	want := "../run/systemd/resolve/stub-resolv.conf\n/data/var/cache\n/home/ann/made\ninside"
	if got := output(t, e, spec); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	sameTree(t, "mount points", before, tree(t, root))
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/loop/x"}}
	if _, _, err := run(t, e, spec); exitCode(err) != -1 {
		t.Errorf("a loop: %v", err)
	}
	sameTree(t, "mount points after an error", before, tree(t, root))
}

func testNetworkNone(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "ls /sys/class/net; cat /sys/class/net/lo/flags; ip route; readlink /proc/self/ns/net")
	spec.Network = executor.NetworkNone
	got := strings.Split(output(t, e, spec), "\n")
	host, _ := os.Readlink("/proc/self/ns/net")
	if len(got) != 3 || got[0] != "lo" || got[1] != "0x9" || got[2] == host {
		t.Errorf("interfaces, flags of lo, routes, namespace: %q", got)
	}
}

func testNetworkDefault(t *testing.T, e executor.Executor) {
	host, _ := os.Readlink("/proc/self/ns/net")
	for _, mode := range []executor.NetworkMode{executor.NetworkDefault, executor.NetworkHost} {
		spec := Shell(Root(t), "readlink /proc/self/ns/net")
		spec.Network = mode
		if got := output(t, e, spec); got != host {
			t.Errorf("network %q is %s, want the caller's %s", mode, got, host)
		}
	}
}

func testUlimits(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "ulimit -Sn; ulimit -Hn; ulimit -Sc")
	spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 123, Hard: 456}, {Name: "core", Soft: 0, Hard: 0}}
	if got := output(t, e, spec); got != "123\n456\n0" {
		t.Errorf("limits %q", got)
	}
	// Without any, those of the caller's other children.
	own, err := exec.Command("sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc").Output()
	must(t, err)
	if got := output(t, e, Shell(Root(t), "ulimit -Sn; ulimit -Hn; ulimit -Sc")); got != strings.TrimSpace(string(own)) {
		t.Errorf("limits %q, want %q", got, own)
	}
	var have unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &have))
	spec = Shell(Root(t), "ulimit -Hn")
	spec.Ulimits = []executor.Ulimit{{Name: "nofile", Soft: 1 << 40, Hard: -1}}
	want := strconv.FormatUint(have.Max, 10)
	if have.Max == unix.RLIM_INFINITY {
		want = "unlimited"
	}
	if got := output(t, e, spec); got != want {
		t.Errorf("beyond what is allowed: %s, want the place's %s", got, want)
	}
}

func testUmask(t *testing.T, e executor.Executor) {
	defer unix.Umask(unix.Umask(0o077))
	root := Root(t)
	spec := Shell(root, "umask; cat /etc/hosts >/dev/null; ls /made/here; : >/tmp/f; stat -c %a /tmp/f")
	spec.Process.User = "ann"
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/made/here"}}
	if got := output(t, e, spec); got != "0022\n644" {
		t.Errorf("umask and mode: %q", got)
	}
}

// dockerCaps is the set of docker's default capabilities: bits of linux/capability.h.
const dockerCaps = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<13 | 1<<18 | 1<<27 | 1<<29 | 1<<31

// status reads lines of /proc/self/status of a process.
func status(t *testing.T, e executor.Executor, spec executor.Spec) map[string]string {
	t.Helper()
	spec.Process.Args = []string{"/bin/cat", "/proc/self/status"}
	m := map[string]string{}
	for line := range strings.Lines(output(t, e, spec)) {
		k, v, _ := strings.Cut(line, ":")
		m[k] = strings.TrimSpace(v)
	}
	return m
}

func testCapabilities(t *testing.T, e executor.Executor) {
	root := Root(t)
	full := fmt.Sprintf("%016x", uint64(dockerCaps))
	none := fmt.Sprintf("%016x", 0)
	got := status(t, e, Shell(root, ""))
	for k, want := range map[string]string{"CapInh": none, "CapAmb": none, "CapBnd": full, "CapPrm": full, "CapEff": full, "NoNewPrivs": "0", "Seccomp": "2"} {
		if got[k] != want {
			t.Errorf("root: %s is %s, want %s", k, got[k], want)
		}
	}
	spec := Shell(root, "")
	spec.Process.User = "ann"
	got = status(t, e, spec)
	for k, want := range map[string]string{"CapInh": none, "CapAmb": none, "CapBnd": full, "CapPrm": none, "CapEff": none, "Seccomp": "2"} {
		if got[k] != want {
			t.Errorf("a user: %s is %s, want %s", k, got[k], want)
		}
	}
}

func testInsecure(t *testing.T, e executor.Executor) {
	root := Root(t)
	spec := Shell(root, "")
	spec.Security = executor.SecurityInsecure
	got := status(t, e, spec)
	caps, err := strconv.ParseUint(got["CapEff"], 16, 64)
	if err != nil || caps&(1<<21) == 0 || got["Seccomp"] != "0" || got["CapInh"] != fmt.Sprintf("%016x", 0) {
		t.Errorf("CapEff %s, Seccomp %s, CapInh %s; want CAP_SYS_ADMIN, no filter, nothing inheritable", got["CapEff"], got["Seccomp"], got["CapInh"])
	}
	spec = Shell(root, "mount -t tmpfs none /tmp && echo mounted")
	spec.Security = executor.SecurityInsecure
	if got := output(t, e, spec); got != "mounted" {
		t.Errorf("mount: %q", got)
	}
}

// The filter refuses what docker's refuses, and answers syncs at once.
func testSeccomp(t *testing.T, e executor.Executor) {
	root := Root(t)
	for _, script := range []string{"mount -t tmpfs none /tmp", "unshare -U true", "chroot / true && nsenter -t 1 -m true"} {
		if _, _, err := run(t, e, Shell(root, script)); exitCode(err) <= 0 {
			t.Errorf("%q: %v, want a refusal", script, err)
		}
	}
	output(t, e, Shell(root, "sync; dd if=/dev/zero of=/f bs=1 count=1 conv=fsync"))
}

func testDev(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), `
		ls /dev | tr '\n' ' '; echo
		stat -c '%n %F %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty
		for l in fd stdin stdout stderr ptmx; do echo $l $(readlink /dev/$l); done
		echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c
		echo x >/dev/full 2>/dev/null || echo full
		stat -c %a /dev/shm /dev/mqueue /dev/pts/ptmx; stat -f -c %T /dev/shm
		ln -s x /dev/link && mkdir /dev/dir && echo writable`)
	want := `core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero
/dev/null character special file 666
/dev/zero character special file 666
/dev/full character special file 666
/dev/random character special file 666
/dev/urandom character special file 666
/dev/tty character special file 666
fd /proc/self/fd
stdin /proc/self/fd/0
stdout /proc/self/fd/1
stderr /proc/self/fd/2
ptmx pts/ptmx
3
3
full
1777
1777
666
tmpfs
writable`
	got := strings.ReplaceAll(output(t, e, spec), " \n", "\n")
	if _, err := os.Stat("/proc/kcore"); err != nil {
		want = strings.TrimPrefix(want, "core ")
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if out, _, _ := run(t, e, Shell(Root(t), "ls -A /dev/link 2>/dev/null")); out != "" {
		t.Errorf("what an earlier run left: %q", out)
	}
}

func testShmSize(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "df -k /dev/shm | tail -1 | awk '{print $2}'")
	for size, want := range map[int64]string{0: "65536", 1 << 20: "1024"} {
		spec.ShmSize = size
		if got := output(t, e, spec); got != want {
			t.Errorf("shm size %d: %s KiB, want %s", size, got, want)
		}
	}
}

// What belongs to the machine is hidden or cannot be written, by root either.
func testProtected(t *testing.T, e executor.Executor) {
	root := Root(t)
	hostname, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	must(t, err)
	for _, script := range []string{
		"echo x >/proc/sys/kernel/core_pattern", "echo h >/proc/sysrq-trigger", "echo x >/proc/irq/default_smp_affinity",
		"echo x >/sys/x", "mkdir /sys/fs/cgroup/x", "for d in /sys/fs/cgroup/*; do mkdir $d/x && exit 0; done; exit 1",
		"mount -o remount,rw /sys", "umount /proc/sys", "test -s /proc/kcore", "test -s /proc/keys", "test -s /proc/timer_list",
		"ls /sys/firmware | grep .", "ls /proc/scsi | grep .",
	} {
		if _, _, err := run(t, e, Shell(root, script)); exitCode(err) <= 0 {
			t.Errorf("%q: %v, want a refusal", script, err)
		}
	}
	if now, _ := os.ReadFile("/proc/sys/kernel/core_pattern"); string(now) != string(hostname) {
		t.Error("THE MACHINE WAS CHANGED!")
	}
	output(t, e, Shell(root, "test -d /sys/kernel && test -d /proc/sys/kernel"))
}

func testNamespaces(t *testing.T, e executor.Executor) {
	root := Root(t)
	got := strings.Fields(output(t, e, Shell(root, "for n in pid mnt ipc uts; do readlink /proc/self/ns/$n; done")))
	for i, n := range []string{"pid", "mnt", "ipc", "uts"} {
		if host, err := os.Readlink("/proc/self/ns/" + n); err != nil || i >= len(got) || got[i] == host {
			t.Errorf("%s namespace: %v, outside %s, %v", n, got, host, err)
		}
	}
	if _, _, err := run(t, e, Shell(root, "kill -9 $$; sleep 1; exit 3")); exitCode(err) != 3 {
		t.Errorf("process 1 killed itself: %v", err)
	}
	if got := output(t, e, Shell(root, "echo $$; ls /proc | grep -c '^[0-9]'")); !strings.HasPrefix(got, "1\n") || len(got) > 3 {
		t.Errorf("own pid and number of processes: %q", got)
	}
	if got := output(t, e, Shell(root, "awk '{print $5}' /proc/self/mountinfo | grep -v -e '^/$' -e ^/proc -e ^/dev -e ^/sys -e ^/etc; ls /")); strings.Contains(got, "work") {
		t.Errorf("other mounts or files can be seen: %q", got)
	}
}

// A device made by the process, or found in the image, opens nothing.
func testNoDeviceAccess(t *testing.T, e executor.Executor) {
	root := Root(t)
	_ = unix.Mknod(filepath.Join(root, "fromimage"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) // only real root can
	spec := Shell(root, `
		for d in / /dev /dev/shm /tmp /scratch /bound; do
			mknod $d/node c 1 5 2>/dev/null && head -c 1 $d/node >/dev/null 2>&1 && echo $d
		done
		test -e /fromimage && head -c 1 /fromimage >/dev/null 2>&1 && echo image; true`)
	spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: "/scratch"}, {Type: executor.Bind, Source: t.TempDir(), Target: "/bound"}}
	if got := output(t, e, spec); got != "" {
		t.Errorf("A DEVICE COULD BE OPENED IN %q!", got)
	}
}

// Nothing but the three streams is open, and no working directory leads out through one that leaked (CVE-2024-21626).
func testDescriptors(t *testing.T, e executor.Executor) {
	root := Root(t)
	leak, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // on purpose without O_CLOEXEC
	must(t, err)
	defer unix.Close(leak)
	must(t, unix.Dup3(leak, 200, 0))
	defer unix.Close(200)
	spec := Shell(root, "")
	spec.Process.Args = []string{"/bin/ls", "/proc/self/fd"}
	if got := strings.Join(strings.Fields(output(t, e, spec)), " "); got != "0 1 2 3" { // 3 is the directory itself
		t.Errorf("open descriptors: %s", got)
	}
	for fd := 3; fd < 40; fd++ {
		spec := Shell(root, "ls ../../../../../../bin/busybox; ls -d ../../../../../../"+root)
		spec.Process.Dir = "/proc/self/fd/" + strconv.Itoa(fd)
		if out, _, err := run(t, e, spec); err == nil {
			t.Errorf("THE WORKING DIRECTORY %s LED OUT! %q", spec.Process.Dir, out)
		}
	}
	if left, err := os.ReadDir(filepath.Join(root, "proc")); err == nil {
		t.Errorf("/proc is left with %v", left)
	}
}

// Links where the sandbox mounts and writes lead nowhere outside (CVE-2025-31133, -52565, -52881, CVE-2026-41579).
func testHostilePaths(t *testing.T, e executor.Executor) {
	outside := canary(t)
	up := "../../../../../../../../../.."
	for _, path := range []string{
		"dev", "proc", "sys", "etc/resolv.conf", "etc/hosts", "etc", "dev/null", "dev/pts", "dev/shm", "dev/mqueue", "dev/console", "dev/ptmx",
		"proc/sys", "proc/self", "sys/fs/cgroup",
	} {
		for _, to := range []string{
			outside + "/dir", outside + "/file", outside + "/new", up + outside + "/dir", up + outside + "/empty",
			"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/self/root", "/proc/1/root" + outside + "/dir", "/etc", "/dev", ".",
		} {
			root := Root(t)
			p := filepath.Join(root, path)
			must(t, os.MkdirAll(filepath.Dir(p), 0o755))
			must(t, os.RemoveAll(p))
			must(t, os.Symlink(to, p))
			before := tree(t, root)
			_, _, err := run(t, e, Shell(root, "echo x >/dev/null; echo x >/dev/x; true"))
			_ = err // refused or run: both are fine, as long as nothing outside is touched and nothing is left inside
			sameTree(t, path+" -> "+to, before, tree(t, root))
		}
	}
	for _, path := range []string{"etc/resolv.conf", "etc/hosts", "dev", "proc"} {
		root := Root(t)
		must(t, mkfifo(filepath.Join(root, path)))
		before := tree(t, root)
		_, _, _ = run(t, e, Shell(root, "true"))
		sameTree(t, path+" as a FIFO", before, tree(t, root))
	}
}

// What the process puts where mount points were is not followed when they are removed (CVE-2024-23652).
func testHostileCleanUp(t *testing.T, e executor.Executor) {
	outside := canary(t)
	for _, script := range []string{
		"mv /stub /gone; ln -s $OUT /stub",
		"mv /stub /gone; mkdir -p /stub/in; ln -s $OUT/dir /stub/in/dir",
		"mv /stub/in /gone; ln -s $OUT /stub/in",
		"mv /stub /gone; mkdir -p /stub/in/dir/more",
		"mv /etc /etc2; ln -s $OUT /etc",
		"mv /stub /etc/stub",
	} {
		root := Root(t)
		spec := Shell(root, "cd /; "+script)
		spec.Process.Env = append(spec.Process.Env, "OUT="+outside)
		spec.Mounts = []executor.Mount{
			{Type: executor.Tmpfs, Target: "/stub/in/dir"},
			{Type: executor.Bind, Source: tempFile(t, ""), Target: "/stub/empty"},
		}
		if _, errOut, err := run(t, e, spec); exitCode(err) < 0 {
			t.Errorf("%q: %v %s", script, err, errOut)
		}
		if _, err := os.Stat(filepath.Join(root, "gone/empty")); err == nil {
			t.Errorf("%q: a mount point is left where it was moved to", script)
		}
	}
}

// A mount's target is resolved in the image, whatever it looks like (CVE-2021-30465, CVE-2023-27561).
func testHostileMountTargets(t *testing.T, e executor.Executor) {
	outside := canary(t)
	up := "../../../../../../../../../.."
	for _, to := range []string{outside, outside + "/dir", up + outside, "/proc/self/root" + outside, "/proc/self/cwd", "/dev/../.." + outside} {
		root := Root(t)
		must(t, os.Symlink(to, filepath.Join(root, "link")))
		before := tree(t, root)
		for _, target := range []string{"/link", "/link/new", "/link/dir", "/home/" + up + "/link/x", "/" + up + outside + "/y"} {
			for _, source := range []string{t.TempDir(), tempFile(t, "x")} {
				spec := Shell(root, "true")
				spec.Mounts = []executor.Mount{{Type: executor.Bind, Source: source, Target: target}}
				_, _, _ = run(t, e, spec)
			}
			spec := Shell(root, "true")
			spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: target}}
			_, _, _ = run(t, e, spec)
		}
		sameTree(t, "link to "+to, before, tree(t, root))
	}
	for _, target := range []string{"/proc", "/proc/sys", "/proc/self/attr", "/proc/1"} {
		spec := Shell(Root(t), "true")
		spec.Mounts = []executor.Mount{{Type: executor.Tmpfs, Target: target}}
		if _, _, err := run(t, e, spec); exitCode(err) != -1 {
			t.Errorf("a mount over %s: %v, want an error", target, err)
		}
	}
}

// The program that started the process cannot be overwritten through /proc (CVE-2019-5736).
func testExecutableUnchanged(t *testing.T, e executor.Executor) {
	sum := func() [32]byte {
		b, err := os.ReadFile("/proc/self/exe")
		must(t, err)
		return sha256.Sum256(b)
	}
	before := sum()
	root := Root(t)
	must(t, os.WriteFile(filepath.Join(root, "attack"), []byte("#!/proc/self/exe\n"), 0o755))
	spec := Shell(root, "for i in 1 2 3; do for p in /proc/[0-9]*/exe /proc/self/exe; do echo x >>$p; done; done 2>/dev/null; true")
	output(t, e, spec)
	spec.Process.Args = []string{"/attack"}
	_, _, _ = run(t, e, spec)
	if sum() != before {
		t.Fatal("THE PROGRAM WAS OVERWRITTEN!")
	}
}

// A process that detaches itself ends with the run, and the run does not wait for it.
func testNothingSurvives(t *testing.T, e executor.Executor) {
	root := Root(t)
	start := time.Now()
	output(t, e, Shell(root, "setsid sleep 4321 & (sleep 4321 &) ; nohup sleep 4321 >/dev/null 2>&1 & echo started"))
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("the run took %s", d)
	}
	out, err := exec.Command("sh", "-c", "grep -l 4321 /proc/[0-9]*/cmdline 2>/dev/null | grep -v -e /proc/$$/").Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Sys().(syscall.WaitStatus).ExitStatus() == 1 {
		err = nil
	}
	for p := range strings.FieldsSeq(string(out)) {
		if b, rerr := os.ReadFile(p); rerr == nil && strings.HasPrefix(string(b), "sleep") {
			t.Errorf("%s IS STILL RUNNING! %v", p, err)
		}
	}
}
