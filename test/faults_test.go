package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// faulty is a build with all that writes: a pull, COPY, RUN, stages, a name, a push.
type faulty struct {
	h    *harness.Home
	args []string
	want string
}

func newFaulty(t *testing.T) *faulty {
	t.Helper()
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
	dir := h.Files(map[string]string{"c/file": "content\n", "c/Dockerfile": "FROM " + base + " AS a\nRUN echo a > /a; mkdir /d; echo b > /d/b\nCOPY file /file\nRUN cat /a /file > /sum\n" +
		"FROM " + base + "\nCOPY --from=a /sum /d /from/\nWORKDIR /w\nRUN rm /bin/vi; echo fine > fine\n"})
	f := &faulty{h: h}
	f.args = []string{"build", "--root", h.Root, "--progress=plain", "-t", registry.Name("faulty"), "-o", "type=image,rewrite-timestamp=true", "--push",
		"--metadata-file", h.Path("meta.json"), filepath.Join(dir, "c")}
	undisturbed := h.Root
	h.Root = h.Path("reference")
	f.want = f.digest(t)
	h.Root = undisturbed
	return f
}

// at is the command with another store.
func (f *faulty) at(root string) []string {
	args := append([]string{}, f.args...)
	args[2] = root
	return args
}

// digest is what the build comes to when nothing is wrong.
func (f *faulty) digest(t *testing.T) string {
	t.Helper()
	_ = os.Remove(f.h.Path("meta.json"))
	r := f.h.Cairn(f.at(f.h.Root)...).OK(t)
	return digestIn(t, f.h.Path("meta.json"), r.Stderr)
}

func digestIn(t *testing.T, file, log string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), `"containerimage.digest"`)
	parts := strings.Split(rest, `"`)
	if len(parts) < 2 || !strings.HasPrefix(parts[1], "sha256:") {
		t.Fatalf("no digest in %s\n%s", data, log)
	}
	return parts[1]
}

// traced runs the build under strace, which does something to it at the n-th call of a kind that one of its threads makes. It reports whether that
// happened.
func (f *faulty) traced(t *testing.T, inject string) (harness.Result, bool) {
	t.Helper()
	calls, _, _ := strings.Cut(inject, ":")
	log := filepath.Join(t.TempDir(), "trace")
	args := []string{"strace", "-f", "-qq", "-o", log, "-e", "trace=" + calls, "-e", "inject=" + inject}
	if os.Getuid() == 0 {
		// As root strace lets newuidmap be what it is.
		args = append(args, "-u", f.h.Name)
	}
	cairn := f.h.CairnCommand(f.at(f.h.Root)...)
	cmd := exec.Command(args[0], append(args[1:], cairn.Args...)...)
	cmd.Dir, cmd.Env = cairn.Dir, cairn.Env
	r := harness.Execute(t, cmd)
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return r, strings.Contains(string(data), "(INJECTED)") || strings.Contains(string(data), "killed by SIGKILL")
}

// sound checks a store after a fault, and that the same command succeeds without it.
func (f *faulty) sound(t *testing.T, after string) {
	t.Helper()
	harness.WaitFor(t, 10*time.Second, "no mount and no process is left", func() bool { return len(f.h.Processes()) == 0 })
	if r := f.h.Cairn("system", "check", "--read-data", "--root", f.h.Root); r.Code != 0 || r.Stdout != "" {
		t.Errorf("after %s: %v", after, r)
	}
	if got := f.digest(t); got != f.want {
		t.Errorf("after %s the build gives %s, not %s", after, got, f.want)
	}
	f.h.CheckClean()
}

// fresh takes the store away.
func (f *faulty) fresh(t *testing.T) {
	t.Helper()
	f.h.Cairn("system", "prune", "--all", "--force", "--root", f.h.Root).OK(t)
}

// failPoints are the calls by which a build writes, mounts, and speaks to a registry.
var failPoints = []string{"write", "fsync", "renameat,renameat2", "linkat", "mkdirat", "unlinkat", "fchmodat", "openat", "mount", "pwrite64,copy_file_range",
	"connect", "flock", "fchownat", "utimensat", "getdents64"}

// TestKillAtCalls is T4: the process that makes the n-th call of a kind is killed right there.
func TestKillAtCalls(t *testing.T) {
	f := newFaulty(t)
	tries := torture.Times(4, 90)
	killed := 0
	for i := range tries {
		calls := failPoints[i%len(failPoints)]
		n := []int{1, 2, 3, 5, 8, 13, 21, 34}[(i/len(failPoints)+i)%8]
		inject := fmt.Sprintf("%s:signal=SIGKILL:when=%d", calls, n)
		f.fresh(t)
		r, hit := f.traced(t, inject)
		if hit {
			killed++
		} else if r.Code != 0 {
			t.Errorf("%s: nothing was injected: %v", inject, r)
		}
		f.sound(t, inject)
		if t.Failed() {
			return
		}
	}
	if killed < tries/3 {
		t.Errorf("only %d of %d builds were killed", killed, tries)
	}
	torture.Figure(t, "T4", "%d builds killed with SIGKILL at a system call (the 1st to 34th %s of a thread): no mount and no process was left, the store checked clean "+
		"after each, and each was rebuilt to the digest of an undisturbed store", killed, strings.Join(failPoints, ", "))
}

// TestInputOutputErrors is T7: the n-th call of a kind fails. The build says so or does without; the store is sound.
func TestInputOutputErrors(t *testing.T) {
	f := newFaulty(t)
	points := []string{"fsync", "renameat,renameat2", "linkat", "mkdirat", "unlinkat", "fchmodat", "openat", "getdents64", "copy_file_range,pwrite64", "flock", "ftruncate", "utimensat"}
	tries := torture.Times(4, 96)
	hits, failed := 0, 0
	for i := range tries {
		inject := fmt.Sprintf("%s:error=EIO:when=%d", points[i%len(points)], []int{1, 2, 3, 5, 8, 13, 21, 34}[(i/len(points)+i)%8])
		f.fresh(t)
		r, hit := f.traced(t, inject)
		if hit {
			hits++
		}
		if r.Code != 0 {
			failed++
			if !hit || !says(r.Stderr, "input/output error", "i/o error") || strings.Contains(r.Stderr, "goroutine ") {
				t.Errorf("%s: %v", inject, r)
			}
		}
		f.sound(t, inject)
		if t.Failed() {
			return
		}
	}
	if hits < tries/3 {
		t.Errorf("only %d of %d builds met an error", hits, tries)
	}
	torture.Figure(t, "T7", "%d builds met EIO at a system call: %d said so, the others did without; the store checked clean after each, and the same command succeeded", hits, failed)
}

// says reports whether a text has one of some words, in capitals or not: programs that a build runs have words of their own for an error.
func says(text string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(strings.ToLower(text), w) })
}

// TestScarceDisk is T7: a store on a disk that is too small in bytes or inodes. The build says so, the store is sound, prune works with not a byte
// free, and with more space the same command succeeds.
func TestScarceDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems of many sizes and must run as root")
	}
	f := newFaulty(t)
	need := size(t, f.h.Path("reference"))
	sizes, inodes := torture.Times(4, 64), torture.Times(2, 16)
	var options []string
	for i := range sizes {
		options = append(options, fmt.Sprintf("size=%d", 1<<20+(need*11/10-1<<20)*int64(i)/int64(sizes)))
	}
	for i := range inodes {
		options = append(options, fmt.Sprintf("size=512m,nr_inodes=%d", 32+600*i/inodes))
	}
	full := 0
	for i, option := range options {
		if f.scarce(t, i, option) {
			full++
		}
		if t.Failed() {
			return
		}
	}
	if full < len(options)/3 {
		t.Errorf("only %d of %d disks were too small", full, len(options))
	}
	torture.Figure(t, "T7", "%d builds with a store on disks of %d sizes and %d numbers of inodes: the %d that were too small were said to be, the store checked clean, prune worked "+
		"with no byte free, and with more space the same command succeeded", len(options), sizes, inodes, full)
}

// size is how much a directory takes up.
func size(t *testing.T, dir string) (n int64) {
	t.Helper()
	kib, _, _ := strings.Cut(harness.Run(t, "du", "-s", "--block-size=1K", dir), "\t")
	k, err := strconv.ParseInt(kib, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return k << 10
}

// scarce runs the script below in a mount namespace with a disk of its own, and reports whether that was too small.
func (f *faulty) scarce(t *testing.T, n int, option string) bool {
	t.Helper()
	h := f.h
	disk := h.Path("disk" + strconv.Itoa(n))
	h.Run("mkdir", disk)
	out := h.Path("scarce")
	_ = os.RemoveAll(out)
	h.Run("mkdir", out)
	const script = `set -u
mount -t tmpfs -o "$OPTION,mode=755" tmpfs "$DISK"; chown $U:$G "$DISK"
as() { setpriv --reuid $U --regid $G --clear-groups "$@"; }
as "$@" > $OUT/build 2>&1; code=$?; echo $code > $OUT/code
[ $code = 0 ] && exit 0
check() { as "$CAIRN" system check --read-data --root "$DISK/store" > $OUT/check 2>&1 || echo "check" >> $OUT/wrong; }
[ -d "$DISK/store" ] && check
head -c 999999999 /dev/zero > "$DISK/filler" 2>/dev/null
[ -d "$DISK/store" ] && { as "$CAIRN" system prune --all --force --root "$DISK/store" > $OUT/prune 2>&1 || echo "prune" >> $OUT/wrong; }
rm "$DISK/filler"; mount -o remount,size=1g,nr_inodes=100000 "$DISK" || echo "remount" >> $OUT/wrong
as "$@" > $OUT/again 2>&1 || echo "again" >> $OUT/wrong
check
`
	cairn := h.CairnCommand(f.at(disk + "/store")...)
	cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", script, "sh"}, cairn.Args...)...)
	cmd.Dir = cairn.Dir
	cmd.Env = append(cairn.Env, "OPTION="+option, "DISK="+disk, "OUT="+out, "CAIRN="+cairn.Path, fmt.Sprint("U=", h.UID), fmt.Sprint("G=", h.GID))
	r := harness.Execute(t, cmd)
	read := func(name string) string {
		data, _ := os.ReadFile(filepath.Join(out, name))
		return string(data)
	}
	if wrong := read("wrong"); wrong != "" || r.Stderr != "" {
		t.Errorf("%s: %s%s\n-- build\n%s-- check\n%s-- prune\n%s-- again\n%s", option, wrong, r.Stderr, read("build"), read("check"), read("prune"), read("again"))
	}
	if got := digestIn(t, h.Path("meta.json"), read("again")); got != f.want {
		t.Errorf("%s: the build gives %s, not %s", option, got, f.want)
	}
	if read("code") == "0\n" {
		return false
	}
	if log := read("build"); !strings.Contains(log, "no space left on device") || strings.Contains(log, "goroutine ") {
		t.Errorf("%s: the build says\n%s", option, log)
	}
	return true
}

// TestScarceLimits is T7: files that may not grow, and few open files. A build that cannot go on says so and leaves a sound store.
func TestScarceLimits(t *testing.T) {
	f := newFaulty(t)
	limits := map[string]string{"nofile=40": "too many open files", "fsize=100000": "file too large"}
	if torture.On() {
		for _, n := range []int{32, 36, 48, 64, 96, 128, 192, 256} {
			limits[fmt.Sprint("nofile=", n)] = "too many open files"
			limits[fmt.Sprint("fsize=", 1<<8*n*n/16)] = "file too large"
		}
	}
	failed := 0
	for limit, word := range limits {
		f.fresh(t)
		cairn := f.h.CairnCommand(f.at(f.h.Root)...)
		r := harness.Execute(t, f.h.Command(append([]string{"prlimit", "--" + limit}, cairn.Args...)...))
		if r.Code != 0 {
			failed++
			if !says(r.Stderr, word) || strings.Contains(r.Stderr, "goroutine ") {
				t.Errorf("%s: %v", limit, r)
			}
		}
		f.sound(t, limit)
	}
	torture.Figure(t, "T7", "%d builds with few open files or files that may not grow: %d could not go on and said why, the store checked clean, and without the limit the same command succeeded",
		len(limits), failed)
}
