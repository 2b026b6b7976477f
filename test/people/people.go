// Package people is who the tests are run as: root, a user with sub-ids, and strangers whom no table of users knows.
//
// The user is the system's own, called cairn-test: where there is none, root adds it and leaves it for the next run.
package people

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Person is somebody to run programs as.
type Person struct {
	Name     string
	UID, GID int
}

// Root is real root.
func Root() Person { return Person{Name: "root"} }

// Stranger is a user with neither name nor sub-ids.
func Stranger(id int) Person { return Person{"stranger", id, id} }

const userName = "cairn-test"

// Unprivileged is the user with sub-ids, for which the caller must be root. Processes that ask at the same time wait for each other.
func Unprivileged() (Person, error) {
	p, err := unprivileged()
	if err != nil {
		return p, fmt.Errorf("making the user %s: %w", userName, err)
	}
	return p, nil
}

func unprivileged() (Person, error) {
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), userName+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return Person{}, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return Person{}, err
	}
	u, err := user.Lookup(userName)
	if errors.As(err, new(user.UnknownUserError)) {
		err = run("useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", userName)
		if err == nil {
			u, err = user.Lookup(userName)
		}
	}
	if err != nil {
		return Person{}, err
	}
	if err := errors.Join(addSubIDs("/etc/subuid", "--add-subuids"), addSubIDs("/etc/subgid", "--add-subgids")); err != nil {
		return Person{}, err
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	return Person{userName, uid, gid}, errors.Join(uerr, gerr)
}

// addSubIDs gives the user 65536 sub-ids beyond those that are given out already.
func addSubIDs(file, flag string) error {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	next := 300000
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if f[0] == userName {
			return nil
		}
		if len(f) == 3 {
			start, _ := strconv.Atoi(f[1])
			count, _ := strconv.Atoi(f[2])
			next = max(next, start+count)
		}
	}
	return run("usermod", flag, fmt.Sprintf("%d-%d", next, next+65535), userName)
}

func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

// Become makes a command run as the person.
func (p Person) Become(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if p.UID != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.GID)}
	}
}

// CopySelf puts the program that is running, a test binary, into a directory where everybody can execute it.
func CopySelf(dir string) (exe string, err error) {
	b, err := os.ReadFile("/proc/self/exe")
	exe = filepath.Join(dir, "again.test")
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(exe, b, 0o755), os.Chmod(exe, 0o755)); err != nil {
		return "", fmt.Errorf("copying the test binary: %w", err)
	}
	return exe, nil
}

// Again runs the tests of this test binary once for each person, with env added to the environment, in temporary directories of their own. The
// result is for os.Exit.
func Again(people []Person, env ...string) int {
	dir, err := os.MkdirTemp("/tmp", "cairn-test-again-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	exe, err := CopySelf(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Go's list of what the test depends on lies where others may not write; without it the result is not cached.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile=") })
	code := 0
	for _, p := range people {
		temp := filepath.Join(dir, p.Name)
		if err := errors.Join(os.Mkdir(temp, 0o755), os.Chmod(temp, 0o755), os.Chown(temp, p.UID, p.GID)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd := exec.Command(exe, args...)
		cmd.Env = append(append(os.Environ(), "TMPDIR="+temp), env...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		p.Become(cmd)
		fmt.Println("# as", p.Name)
		if err := cmd.Run(); err != nil {
			fmt.Printf("# as %s: %v\n", p.Name, err)
			code = 1
		}
	}
	return code
}
