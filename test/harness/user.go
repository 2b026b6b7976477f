package harness

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cairn-build/cairn/test/people"
)

// User is somebody who runs cairn.
type User struct {
	Name     string
	UID, GID int
}

// EachUser runs a test as everybody it can be run as: root and an unprivileged user with sub-ids; only as the caller where that is not root.
func EachUser(t *testing.T, f func(t *testing.T, u User)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Run("user", func(t *testing.T) { f(t, User{Name: "self", UID: os.Getuid(), GID: os.Getgid()}) })
		return
	}
	t.Run("root", func(t *testing.T) { f(t, User{Name: "root"}) })
	t.Run("user", func(t *testing.T) { f(t, Unprivileged(t)) })
}

// Unprivileged is a user without privileges and with sub-ids.
func Unprivileged(t testing.TB) User {
	t.Helper()
	if os.Getuid() != 0 {
		return User{Name: "self", UID: os.Getuid(), GID: os.Getgid()}
	}
	p, err := people.Unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	return User{Name: p.Name, UID: p.UID, GID: p.GID}
}

// Home is a user's place for one test: a home directory, a work directory, and the state of cairn.
type Home struct {
	User
	t testing.TB
	// Dir is the home; Root the store of cairn (--root); Work the working directory of commands.
	Dir, Root, Work string
	// Env is added to the environment of commands.
	Env []string
	bin string
	// cgroups are those that were there before.
	cgroups []string
}

// NewHome makes a home, checks at the end of the test that nothing of cairn is left running or mounted, and removes the home.
func NewHome(t testing.TB, u User) *Home {
	t.Helper()
	bin := Binary(t)
	dir, err := os.MkdirTemp("", "cairn-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	h := &Home{User: u, t: t, Dir: dir, Root: filepath.Join(dir, ".local", "share", "cairn"), Work: filepath.Join(dir, "work"), bin: bin, cgroups: Cgroups()}
	t.Cleanup(func() {
		h.CheckClean()
		remove(t, dir)
	})
	for _, d := range []string{h.Work, filepath.Dir(h.Root), filepath.Join(dir, ".local")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.Own()
	return h
}

// remove removes a home: an unprivileged user's holds files of its sub-ids, which only its user namespace can remove.
func remove(t testing.TB, dir string) {
	if err := os.RemoveAll(dir); err == nil {
		return
	}
	if out, err := exec.Command("unshare", "--map-auto", "--map-root-user", "--user", "rm", "-rf", dir).CombinedOutput(); err != nil {
		t.Errorf("removing %s: %v\n%s", dir, err, out)
	}
}

// Files writes files into the working directory, owned by the user, and returns its path.
func (h *Home) Files(files map[string]string) string {
	h.t.Helper()
	WriteFiles(h.t, h.Work, files)
	h.Own()
	return h.Work
}

// Own gives everything in the home to its user, apart from the state of cairn.
func (h *Home) Own() {
	h.t.Helper()
	if os.Getuid() != 0 {
		return
	}
	err := filepath.WalkDir(h.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == h.Root {
			return filepath.SkipDir
		}
		return os.Lchown(path, h.UID, h.GID)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// Command is a command run as the user, in the working directory, with a small environment.
func (h *Home) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = h.Work
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + h.Dir, "USER=" + h.Name, "LANG=C.UTF-8",
	}, h.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getuid() == 0 && h.UID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(h.UID), Gid: uint32(h.GID)}
	}
	return cmd
}

// Cairn runs cairn as the user.
func (h *Home) Cairn(args ...string) Result {
	h.t.Helper()
	return Execute(h.t, h.CairnCommand(args...))
}

// CairnStdin runs cairn with something on its standard input.
func (h *Home) CairnStdin(stdin io.Reader, args ...string) Result {
	h.t.Helper()
	cmd := h.CairnCommand(args...)
	cmd.Stdin = stdin
	return Execute(h.t, cmd)
}

// CairnCommand is cairn to be started by the test.
func (h *Home) CairnCommand(args ...string) *exec.Cmd {
	return h.Command(append([]string{h.bin}, args...)...)
}

// Run runs any command as the user and ends the test if it fails.
func (h *Home) Run(args ...string) string {
	h.t.Helper()
	return Execute(h.t, h.Command(args...)).OK(h.t).Stdout
}

// Path is a path in the working directory.
func (h *Home) Path(name string) string { return filepath.Join(h.Work, name) }
