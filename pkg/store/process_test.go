package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/test/torture"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// The test binary runs itself again as another process with one of these jobs.
const (
	jobVar  = "CAIRN_STORE_TEST_JOB"
	rootVar = "CAIRN_STORE_TEST_ROOT"
)

func TestMain(m *testing.M) {
	jobs := map[string]func(root string) error{
		"write forever": writeForever, "write and prune": writeAndPrune, "fill": fillDisks, "remove": removeAsUser,
		"write for power": writeForPower,
	}
	job := os.Getenv(jobVar)
	if job == "" {
		os.Exit(m.Run())
	}
	if err := jobs[job](os.Getenv(rootVar)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func command(job, root string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), jobVar+"="+job, rootVar+"="+root)
	cmd.Stderr = os.Stderr
	return cmd
}

// work writes one of everything. The content depends on n only, so that processes meet at the same names.
func work(s *Store, n int) error {
	ctx := testContext{}
	content := strings.Repeat(strconv.Itoa(n)+"\n", 20_000)
	w, err := s.NewBlob(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write([]byte(content)); err != nil {
		return err
	}
	desc, err := w.Commit(digest.FromString(content))
	if err != nil {
		return err
	}
	l := layer.Layer{DiffID: digest.FromString("tar" + strconv.Itoa(n)), Descriptor: desc}
	if err := s.PutLayer(l, nil); err != nil {
		return err
	}
	dir, err := s.NewSnapshot()
	if err != nil {
		return err
	}
	// As overlay leaves it: a directory nobody may enter.
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755), os.Chmod(filepath.Join(dir, "a"), 0)); err != nil {
		return errors.Join(err, s.RemoveTemp(dir))
	}
	if _, err := s.CommitSnapshot(l.DiffID, dir); err != nil {
		return errors.Join(err, s.RemoveTemp(dir))
	}
	config, err := s.PutBlob(ctx, "", []byte(`{"rootfs":{"diff_ids":["`+l.DiffID.String()+`"]}}`))
	if err != nil {
		return err
	}
	manifest := fmt.Sprintf(`{"config":{"digest":%q,"size":%d},"layers":[{"digest":%q,"size":%d}]}`, config.Digest, config.Size, desc.Digest, desc.Size)
	d, err := s.PutBlob(ctx, ocispec.MediaTypeImageManifest, []byte(manifest))
	if err != nil {
		return err
	}
	if err := s.PutRecord("cache", strconv.Itoa(n), []byte(l.DiffID)); err != nil {
		return err
	}
	return s.SetRef("app:"+strconv.Itoa(n%5), d)
}

// testContext is a context of a process that has no *testing.T.
type testContext struct{}

func (testContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (testContext) Done() <-chan struct{}       { return nil }
func (testContext) Err() error                  { return nil }
func (testContext) Value(any) any               { return nil }

func writeForever(root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	fmt.Println("open")
	for n := 0; ; n++ {
		if err := work(s, n%50); err != nil {
			return err
		}
	}
}

// Writers are killed at any moment: the store checks clean each time, and nothing of the dead is left in tmp.
func TestKilledWriters(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	rounds := torture.Times(40, 200)
	for range rounds {
		cmd := command("write forever", root)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The moment of the kill is what is random here; nothing waits for it to be late enough.
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the writer ended by itself: %v", err)
		}
		s := openStore(t, root)
		wantNoProblems(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if entries, _ := os.ReadDir(filepath.Join(root, tmpDir)); len(entries) > 0 {
			t.Fatalf("left: %v", entries)
		}
	}
	torture.Figure(t, "T4", "%d writers of a store killed: it checked clean after each, and nothing of the dead was left", rounds)
}

func writeAndPrune(root string) error {
	for n := range 30 {
		s, err := Open(root)
		if err != nil {
			return err
		}
		if err := work(s, n%7); err != nil {
			return err
		}
		// Whoever is alone prunes; what a name leads to must survive it.
		if _, err := s.Prune(testContext{}); err != nil && !errors.Is(err, ErrBusy) {
			return err
		}
		if problems := s.Check(testContext{}, true); len(problems) > 0 {
			return fmt.Errorf("check: %v", problems)
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

func TestConcurrentProcesses(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	var cmds []*exec.Cmd
	for range 6 {
		cmd := command("write and prune", root)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	s := openStore(t, root)
	wantNoProblems(t, s)
	refs, err := s.Refs()
	if err != nil || len(refs) != 5 {
		t.Errorf("refs %v, %v", refs, err)
	}
}

// The store stands on file systems of every size from too small for anything to large enough. Each time the error is ENOSPC,
// the store checks clean, Prune works without a free byte, and with space the same work succeeds.
func TestDiskFull(t *testing.T) {
	cmd := command("fill", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

func fillDisks(dir string) error {
	failed := 0
	for _, option := range []string{"size=%dk,nr_inodes=1000", "size=64m,nr_inodes=%d"} {
		for size := 4; size <= 1000; size = size*5/4 + 1 {
			full, err := fillDisk(dir, fmt.Sprintf(option, size))
			if err != nil {
				return fmt.Errorf("%s: %w", fmt.Sprintf(option, size), err)
			}
			if full {
				failed++
			}
		}
	}
	if failed < 10 {
		return fmt.Errorf("only %d disks became full: the test proves nothing", failed)
	}
	return nil
}

func fillDisk(dir, options string) (full bool, err error) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		return false, err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	root := filepath.Join(dir, "store")
	s, err := Open(root)
	if err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return true, nil
		}
		return false, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for n := 0; n < 8; n++ {
		err = work(s, n)
		if err != nil {
			break
		}
	}
	full = errors.Is(err, unix.ENOSPC)
	if err != nil && !full {
		return false, err
	}
	if problems := s.Check(testContext{}, true); len(problems) > 0 {
		return false, fmt.Errorf("full: %v", problems)
	}
	if full {
		// Take the last free byte too.
		filler, err := os.Create(filepath.Join(dir, "filler"))
		if err == nil {
			for err == nil {
				_, err = filler.Write(make([]byte, 4096))
			}
			filler.Close()
		}
	}
	refs, err := s.Refs()
	if err != nil {
		return false, err
	}
	for name := range refs {
		if err := s.DeleteRef(name); err != nil {
			return false, err
		}
	}
	for n := range 8 {
		if err := s.DeleteRecord("cache", strconv.Itoa(n)); err != nil {
			return false, err
		}
	}
	if _, err := s.Prune(testContext{}); err != nil {
		return false, fmt.Errorf("pruning with no space: %w", err)
	}
	for b := range s.Blobs() {
		return false, fmt.Errorf("%s is left after prune", b.Digest)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=128m,nr_inodes=10000"); err != nil {
		return false, err
	}
	if err := work(s, 1); err != nil {
		return false, fmt.Errorf("with space again: %w", err)
	}
	if problems := s.Check(testContext{}, true); len(problems) > 0 {
		return false, fmt.Errorf("with space again: %v", problems)
	}
	return full, nil
}

// Removal is tried by a process that may not enter what its owner has closed: root would not notice.
func TestRemoveTree(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := command("remove", dir)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
}

func removeAsUser(dir string) error {
	outside := filepath.Join(dir, "outside")
	tree := filepath.Join(dir, "tree")
	if err := errors.Join(os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "canary"), nil, 0o644), os.Mkdir(tree, 0o755)); err != nil {
		return err
	}
	closed := filepath.Join(tree, "work", "work")
	if err := errors.Join(
		os.MkdirAll(filepath.Join(closed, "index", "x"), 0o755),
		os.Symlink(outside, filepath.Join(tree, "link")),
		os.Symlink("../../outside", filepath.Join(closed, "link")),
		os.Symlink("nowhere", filepath.Join(tree, "dangling")),
		os.Link(filepath.Join(outside, "canary"), filepath.Join(tree, "hardlink")),
		syscall.Mkfifo(filepath.Join(tree, "fifo"), 0),
		deepTree(tree, 3000),
	); err != nil {
		return err
	}
	for i := range 10_000 {
		if err := os.WriteFile(filepath.Join(closed, strconv.Itoa(i)), nil, 0); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(closed, 0), os.Chmod(filepath.Dir(closed), 0o100), os.Chmod(tree, 0o500)); err != nil {
		return err
	}
	if err := removeTree(tree); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		return fmt.Errorf("left %v, %w", entries, err)
	}
	fi, err := os.Stat(filepath.Join(outside, "canary"))
	if err != nil || fi.Sys().(*syscall.Stat_t).Nlink != 1 {
		return fmt.Errorf("the canary outside: %v, %w", fi, err)
	}
	if err := removeTree(tree); err != nil {
		return fmt.Errorf("removing what is gone: %w", err)
	}
	return nil
}

// deepTree makes a directory far deeper than a path may be long and than there are descriptors.
func deepTree(dir string, depth int) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	for range depth {
		if err != nil {
			return err
		}
		if err = unix.Mkdirat(fd, "deep", 0o755); err != nil {
			return err
		}
		next, openErr := unix.Openat(fd, "deep", unix.O_DIRECTORY, 0)
		unix.Close(fd)
		fd, err = next, openErr
	}
	return errors.Join(err, unix.Close(fd))
}

func TestRemoveTreeKeepsMounts(t *testing.T) {
	s := newStore(t)
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Fatal(err)
	}
	// /proc is a mount that every process may look at and nobody may remove from.
	top, err := unix.Open("/", unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(top)
	for name, open := range map[string]func() (int, error){
		"openat2": func() (int, error) { return openat2(top, "proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW) },
		"openat":  func() (int, error) { return openSameDevice(top, "proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW) },
	} {
		if fd, err := open(); !errors.Is(err, unix.EXDEV) {
			unix.Close(fd)
			t.Errorf("%s entered a mount: %v", name, err)
		}
	}
	if err := s.RemoveTemp("/proc"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemoveTemp(/proc): %v", err)
	}
}
