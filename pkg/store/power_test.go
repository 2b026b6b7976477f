package store

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// writeForPower is the work whose system calls are recorded.
func writeForPower(root string) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	for _, n := range []int{1, 2, 1, 6} {
		if err := work(s, n); err != nil {
			return err
		}
	}
	if err := s.DeleteRef("app:2"); err != nil {
		return err
	}
	return s.Close()
}

// node is a file or directory of the disk that is simulated.
type node struct {
	names   map[string]*node // of a directory, as processes see it
	durable map[string]*node // as it was when the directory was last synced
	data    []byte
	synced  int // how much of data is on the disk
	mode    fs.FileMode
}

func newDir() *node {
	return &node{names: map[string]*node{}, durable: map[string]*node{}, mode: 0o700}
}

// disk is what one process does to the directory root, call by call.
type disk struct {
	root string
	top  *node
	fds  map[string]*node // by number
}

// at returns the directory that a path is in, and its last name; nil for what is not below the root.
func (d *disk) at(path string) (*node, string) {
	rel, ok := strings.CutPrefix(path, d.root+"/")
	if !ok {
		return nil, ""
	}
	dir := d.top
	parts := strings.Split(strings.TrimSuffix(rel, "/"), "/")
	for _, p := range parts[:len(parts)-1] {
		if dir = dir.names[p]; dir == nil {
			return nil, ""
		}
	}
	return dir, parts[len(parts)-1]
}

func (d *disk) find(path string) *node {
	if path == d.root {
		return d.top
	}
	dir, base := d.at(path)
	if dir == nil {
		return nil
	}
	return dir.names[base]
}

var traced = regexp.MustCompile(`^\d+ +(\w+)\((.*)\) += (-?\d+)`)

// quoted are the strings of a call's arguments, which strace writes in hex.
var quoted = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)

func unhex(t *testing.T, text string) string {
	t.Helper()
	s, err := strconv.Unquote(`"` + text + `"`)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// apply does what one call did, and reports whether it changed anything.
func (d *disk) apply(t *testing.T, line string) bool {
	t.Helper()
	m := traced.FindStringSubmatch(line)
	if m == nil || strings.HasPrefix(m[3], "-") {
		return false
	}
	var text []string
	for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
		text = append(text, unhex(t, q[1]))
	}
	fd, _, _ := strings.Cut(m[2], ",")
	last := m[2][strings.LastIndex(m[2], " ")+1:]
	switch m[1] {
	case "openat":
		n := d.find(text[0])
		if dir, base := d.at(text[0]); n == nil && dir != nil {
			n = &node{mode: mode(last)}
			dir.names[base] = n
		}
		delete(d.fds, m[3])
		if n != nil {
			d.fds[m[3]] = n
		}
		return strings.Contains(m[2], "O_CREAT")
	case "close":
		delete(d.fds, fd)
	case "write":
		if n := d.fds[fd]; n != nil && n.names == nil {
			n.data = append(n.data, text[0]...)
			return true
		}
	case "pwrite64":
		if n := d.fds[fd]; n != nil && n.names == nil {
			off, err := strconv.Atoi(last)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			n.writeAt(text[0], off)
			return true
		}
	case "fsync":
		n := d.fds[fd]
		if n == nil {
			return false
		}
		n.synced, n.durable = len(n.data), clone(n.names)
		return true
	case "fchmod":
		if n := d.fds[fd]; n != nil {
			n.mode = mode(last)
			return true
		}
	case "fchmodat":
		if n := d.find(text[0]); n != nil {
			n.mode = mode(strings.Split(m[2], ", ")[2])
			return true
		}
	case "mkdirat":
		if dir, base := d.at(text[0]); dir != nil {
			dir.names[base] = newDir()
			return true
		}
	case "unlinkat":
		if dir, base := d.at(text[0]); dir != nil {
			delete(dir.names, base)
			return true
		}
	case "renameat", "renameat2":
		from, base := d.at(text[0])
		to, name := d.at(text[1])
		if from != nil && to != nil {
			to.names[name] = from.names[base]
			delete(from.names, base)
			return true
		}
	default:
		t.Fatalf("%s is not simulated", line)
	}
	return false
}

// writeAt writes at an offset. What was synced of there, and behind, is as good as never synced.
func (n *node) writeAt(text string, off int) {
	if missing := off + len(text) - len(n.data); missing > 0 {
		n.data = append(n.data, make([]byte, missing)...)
	}
	copy(n.data[off:], text)
	n.synced = min(n.synced, off)
}

func clone(m map[string]*node) map[string]*node {
	if m == nil {
		return nil
	}
	out := map[string]*node{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func mode(text string) fs.FileMode {
	n, _ := strconv.ParseUint(strings.TrimSpace(text), 8, 32)
	return fs.FileMode(n & 0o777)
}

// The ways in which a disk loses what was not synced.
var losses = []string{"names and content", "content, files are empty", "content, files are zeros", "nothing"}

// write makes real files of the disk as it is after a power cut.
func (n *node) write(path, loss string) error {
	if n.durable != nil || n.names != nil {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		names := n.names
		if loss == losses[0] {
			names = n.durable
		}
		for name, child := range names {
			if err := child.write(filepath.Join(path, name), loss); err != nil {
				return err
			}
		}
		return nil
	}
	data := n.data[:n.synced]
	switch loss {
	case losses[2]:
		data = append(slices.Clone(data), make([]byte, len(n.data)-n.synced)...)
	case losses[3]:
		data = n.data
	}
	if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chmod(path, n.mode)); err != nil {
		return err
	}
	// It was written before the machine was started.
	return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0))
}

// record runs the work under strace and returns its calls in their order.
func record(t *testing.T, root string) []string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "trace")
	cmd := command("write for power", root)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Path, err = exec.LookPath("strace")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = []string{"strace", "-f", "-xx", "-s", "1000000", "-o", log, "-e", "signal=none",
		"-e", "trace=openat,close,write,fsync,fchmod,fchmodat,mkdirat,unlinkat,renameat,renameat2,rename,mkdir,unlink,chmod,fdatasync,pwrite64,ftruncate,copy_file_range,linkat", self}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var calls []string
	begun := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		pid, _, _ := strings.Cut(line, " ")
		if before, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			begun[pid] = before
			continue
		}
		if _, after, ok := strings.Cut(line, " resumed>"); ok {
			line = begun[pid] + after
		}
		calls = append(calls, line)
	}
	return calls
}

// TestPowerCutAnywhere is T5: the system calls of writers are recorded, and the power is cut after each of them, with what was not synced lost in every way.
// What a name leads to is whole each time, nothing else is taken for whole, and the same work succeeds.
func TestPowerCutAnywhere(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	d := &disk{root: root, top: newDir(), fds: map[string]*node{}}
	// Where a sync costs nothing: what counts here is what the simulated disk keeps.
	dir, err := os.MkdirTemp("/dev/shm", "cairn-power-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	states, k := 0, 0
	seen := map[string]bool{}
	for _, line := range record(t, root) {
		if !d.apply(t, line) {
			continue
		}
		k++
		for _, loss := range losses {
			at := filepath.Join(dir, "cut")
			if err := d.top.write(at, loss); err != nil {
				t.Fatal(err)
			}
			states++
			if err := afterCut(at, seen); err != nil {
				t.Fatalf("after call %d, with %s lost: %v\n%.300s", k, loss, err, line)
			}
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if states < 500 || len(seen) < 2 {
		t.Errorf("%d states and the names %v: the recording is not of the work", states, seen)
	}
	t.Logf("%d states after %d calls", states, k)
}

// afterCut opens a store as it was found, and does the work again.
func afterCut(root string, seen map[string]bool) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	s.boot = time.Now() // the machine was started after it
	check := func() error {
		for _, p := range s.Check(testContext{}, true) {
			// Indexes and records are hints, written without a sync: one that was caught counts as missing, and is made again by whoever needs it.
			if !strings.HasPrefix(p.What, layersDir+"/") && !strings.HasPrefix(p.What, recordsDir+"/") {
				return p
			}
		}
		return nil
	}
	refs, err := s.Refs()
	for name := range refs {
		seen[name] = true
	}
	return errors.Join(err, check(), work(s, 1), check(), s.Close())
}
