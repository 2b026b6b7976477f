package exectest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

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
