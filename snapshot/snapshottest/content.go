package snapshottest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// write makes or replaces the content of a file.
func write(t *testing.T, root, name, content string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
}

func mkdir(t *testing.T, root, name string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(root, name), 0o755))
}

func remove(t *testing.T, root, name string) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(root, name)))
}

func wantContent(t *testing.T, root, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(root, name))
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q (%v), not %q", name, got, err, want)
	}
}

// base is a layer that most tests start from.
func (e *env) base(t *testing.T) layer.Layer {
	t.Helper()
	return e.layerOf(t, map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/conf/a": "a", "etc/conf/b": "b", "usr/bin/tool": "tool"},
		dir("etc"), file("etc/passwd"), dir("etc/conf"), file("etc/conf/a"), file("etc/conf/b"),
		dir("usr"), dir("usr/bin"), file("usr/bin/tool"), link("bin", "usr/bin"), link("abs", "/etc/passwd"))
}

func testScratch(t *testing.T, e *env) {
	ro := e.open(t)
	if want := digest.FromBytes(make([]byte, 1024)); ro.DiffID() != want {
		t.Errorf("DiffID of scratch is %s, not that of the empty tar", ro.DiffID())
	}
	if len(ro.Chain()) != 0 {
		t.Errorf("chain of scratch: %v", ro.Chain())
	}
	tree(t, ro).want(t)
	first := e.edit(t, ro, func(root string) { write(t, root, "a", "1") })
	tree(t, first).want(t, "a")
	second := e.edit(t, first, func(root string) { write(t, root, "b", "2") })
	tree(t, second).want(t, "a", "b")
	tree(t, ro).want(t)
}

func testView(t *testing.T, e *env) {
	base := e.base(t)
	upper := e.layerOf(t, map[string]string{"etc/conf/b": "other b", "new": "new"}, file("etc/conf/b"), file("new"))
	ro := e.open(t, base, upper)
	if ro.DiffID() != upper.DiffID {
		t.Errorf("DiffID %s, not that of the top layer %s", ro.DiffID(), upper.DiffID)
	}
	tree(t, ro).want(t, "abs", "bin", "etc", "etc/conf", "etc/conf/a", "etc/conf/b", "etc/passwd", "new", "usr", "usr/bin", "usr/bin/tool")
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	wantContent(t, rw.Root(), "etc/conf/a", "a")
	wantContent(t, rw.Root(), "etc/conf/b", "other b")
	wantContent(t, rw.Root(), "bin/tool", "tool")
}

func testWrite(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	before := tree(t, ro)
	committed := e.edit(t, ro, func(root string) {
		write(t, root, "etc/conf/a", "changed")
		write(t, root, "usr/bin/new", strings.Repeat("new", 100_000))
		mkdir(t, root, "opt/deep/er")
		write(t, root, "opt/deep/er/file", "")
		must(t, os.Symlink("../nowhere", filepath.Join(root, "opt/dangling")))
		f, err := os.OpenFile(filepath.Join(root, "etc/passwd"), os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("more\n")
		must(t, errors.Join(err, f.Close()))
	})
	before.wantSame(t, "the layer below before and after", tree(t, ro))
	if l := committed.Chain()[1]; l.DiffID != committed.DiffID() || l.Descriptor.Size == 0 || l.Descriptor.MediaType == "" {
		t.Errorf("committed layer %+v", l)
	}
	if _, err := e.st.LayerIndex(committed.DiffID()); err != nil {
		t.Errorf("the index of the committed layer: %v", err)
	}
}

// Two writers over one layer do not see each other.
func testIsolation(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	one, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, one.Release()) }()
	two, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, two.Release()) }()
	write(t, one.Root(), "etc/conf/a", "one")
	write(t, two.Root(), "etc/conf/a", "two")
	wantContent(t, one.Root(), "etc/conf/a", "one")
	wantContent(t, two.Root(), "etc/conf/a", "two")
	a, err := one.Commit()
	must(t, err)
	b, err := two.Commit()
	must(t, err)
	if a.DiffID() == b.DiffID() {
		t.Error("two contents, one DiffID")
	}
	must(t, errors.Join(a.Release(), b.Release()))
}

func testWhiteout(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	first := e.edit(t, ro, func(root string) {
		remove(t, root, "etc/conf/a")
		remove(t, root, "usr")
		remove(t, root, "bin")
		// What is made and removed in one step leaves no trace.
		write(t, root, "brief", "")
		remove(t, root, "brief")
	})
	tree(t, first).want(t, "abs", "etc", "etc/conf", "etc/conf/b", "etc/passwd")
	second := e.edit(t, first, func(root string) {
		write(t, root, "etc/conf/a", "again")
		mkdir(t, root, "usr/share")
		remove(t, root, "etc/passwd")
	})
	tree(t, second).want(t, "abs", "etc", "etc/conf", "etc/conf/a", "etc/conf/b", "usr", "usr/share")

	// The same as a tar from elsewhere, with whiteouts of what is not there.
	foreign := e.layerOf(t, nil, gone("etc/conf/a"), gone("usr"), gone("never/was/here"), gone("etc/nothing"))
	got := tree(t, e.open(t, e.base(t), foreign))
	for _, name := range []string{"etc/conf/a", "usr", "usr/bin", "etc/nothing"} {
		if line, ok := got[name]; ok {
			t.Errorf("%s is there: %s", name, line)
		}
	}
}

func testOpaque(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	first := e.edit(t, ro, func(root string) {
		remove(t, root, "etc")
		mkdir(t, root, "etc/conf")
		write(t, root, "etc/conf/c", "c")
	})
	tree(t, first).want(t, "abs", "bin", "etc", "etc/conf", "etc/conf/c", "usr", "usr/bin", "usr/bin/tool")
	second := e.edit(t, first, func(root string) {
		remove(t, root, "etc/conf")
		mkdir(t, root, "etc/conf/c")
		write(t, root, "etc/conf/c/d", "d")
	})
	tree(t, second).want(t, "abs", "bin", "etc", "etc/conf", "etc/conf/c", "etc/conf/c/d", "usr", "usr/bin", "usr/bin/tool")

	foreign := layer.Entry{Path: "etc", Type: layer.Dir, Opaque: true}
	got := tree(t, e.open(t, e.base(t), e.layerOf(t, nil, foreign, file("etc/only"))))
	got.want(t, "abs", "bin", "etc", "etc/only", "usr", "usr/bin", "usr/bin/tool")
}

func testChangeOfType(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	first := e.edit(t, ro, func(root string) {
		remove(t, root, "etc/conf")
		write(t, root, "etc/conf", "a file now")
		remove(t, root, "etc/passwd")
		mkdir(t, root, "etc/passwd/sub")
		remove(t, root, "bin")
		mkdir(t, root, "bin")
		remove(t, root, "usr")
		must(t, os.Symlink("etc", filepath.Join(root, "usr")))
	})
	second := e.edit(t, first, func(root string) {
		remove(t, root, "etc/conf")
		mkdir(t, root, "etc/conf")
		remove(t, root, "usr")
		mkdir(t, root, "usr/bin")
		remove(t, root, "etc/passwd")
		write(t, root, "etc/passwd", "a file again")
	})
	tree(t, second).want(t, "abs", "bin", "etc", "etc/conf", "etc/passwd", "usr", "usr/bin")
}

// mv has to copy a directory of a lower layer, as rename is refused (EXDEV), and what comes out must not tell.
func testRename(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	moved := e.edit(t, ro, func(root string) {
		out, err := exec.Command("mv", filepath.Join(root, "etc/conf"), filepath.Join(root, "settings")).CombinedOutput()
		if err != nil {
			t.Fatalf("mv: %v: %s", err, out)
		}
		must(t, os.Rename(filepath.Join(root, "etc/passwd"), filepath.Join(root, "passwd")))
		mkdir(t, root, "fresh/dir")
		must(t, os.Rename(filepath.Join(root, "fresh"), filepath.Join(root, "renamed")))
	})
	tree(t, moved).want(t, "abs", "bin", "etc", "passwd", "renamed", "renamed/dir", "settings", "settings/a", "settings/b",
		"usr", "usr/bin", "usr/bin/tool")
	back := e.edit(t, moved, func(root string) {
		out, err := exec.Command("mv", filepath.Join(root, "settings"), filepath.Join(root, "etc/conf")).CombinedOutput()
		if err != nil {
			t.Fatalf("mv: %v: %s", err, out)
		}
	})
	wantPaths := tree(t, back)
	if _, ok := wantPaths["etc/conf/a"]; !ok {
		t.Errorf("after moving back: %v", wantPaths)
	}
}

func testHardLinks(t *testing.T, e *env) {
	base := e.layerOf(t, map[string]string{"a": "content", "x": "lonely"}, file("a"), file("x"),
		layer.Entry{Path: "b", Type: layer.Hardlink, Linkname: "a"}, layer.Entry{Path: "c", Type: layer.Hardlink, Linkname: "a"})
	ro := e.open(t, base)
	if got := tree(t, ro); !strings.Contains(got["b"], "same as a\n") || !strings.Contains(got["c"], "same as a\n") {
		t.Errorf("links of one layer: %v", got)
	}
	first := e.edit(t, ro, func(root string) {
		write(t, root, "n1", "new")
		must(t, os.Link(filepath.Join(root, "n1"), filepath.Join(root, "n2")))
		mkdir(t, root, "0")
		must(t, os.Link(filepath.Join(root, "n1"), filepath.Join(root, "0/n3")))
		must(t, os.Link(filepath.Join(root, "x"), filepath.Join(root, "x2")))
	})
	if got := tree(t, first); !strings.Contains(got["n2"], "same as") || !strings.Contains(got["x2"], "same as x\n") {
		t.Errorf("new links: %v", got)
	}
	e.edit(t, first, func(root string) { remove(t, root, "n1") })
	e.edit(t, first, func(root string) {
		remove(t, root, "b")
		remove(t, root, "c")
		write(t, root, "a", "alone")
	})
}

func testModes(t *testing.T, e *env) {
	modes := map[string]uint32{"setuid": 0o4755, "setgid": 0o2755, "sticky": 0o1644, "all": 0o7777, "none": 0, "write": 0o222}
	ro := e.open(t)
	first := e.edit(t, ro, func(root string) {
		for name, mode := range modes {
			for _, prefix := range []string{"f-", "d-"} {
				path := filepath.Join(root, prefix+name)
				if prefix == "f-" {
					write(t, root, prefix+name, name)
				} else {
					mkdir(t, root, prefix+name+"/sub")
				}
				must(t, os.Lchown(path, 1234, 567))
				must(t, unix.Chmod(path, mode))
			}
		}
		must(t, os.Symlink("f-all", filepath.Join(root, "link")))
		must(t, os.Lchown(filepath.Join(root, "link"), 7, 8))
	})
	got := tree(t, first)
	for name, mode := range modes {
		if want := fmt.Sprintf("mode %o owner 1234:567 ", unix.S_IFREG|mode); !strings.HasPrefix(got["f-"+name], want) {
			t.Errorf("f-%s: %s, not %s", name, got["f-"+name], want)
		}
		if want := fmt.Sprintf("mode %o owner 1234:567 ", unix.S_IFDIR|mode); !strings.HasPrefix(got["d-"+name], want) {
			t.Errorf("d-%s: %s, not %s", name, got["d-"+name], want)
		}
	}
}

// Changes of metadata alone are changes.
func testMetadataOnly(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	e.edit(t, ro, func(root string) {
		must(t, unix.Chmod(filepath.Join(root, "usr/bin/tool"), 0o4711))
		must(t, os.Lchown(filepath.Join(root, "etc/conf"), 42, 43))
		must(t, os.Lchown(filepath.Join(root, "bin"), 44, 45))
		must(t, os.Chtimes(filepath.Join(root, "etc/passwd"), time.Time{}, time.Unix(1_000_000, 0)))
	})
	e.edit(t, ro, func(root string) { must(t, unix.Chmod(filepath.Join(root, "usr"), 0o700)) })
}

func testXattrs(t *testing.T, e *env) {
	// CAP_NET_RAW, permitted and effective, as setcap writes it (capabilities(7), version 2).
	capability := string([]byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	ping := layer.Entry{Path: "ping", Type: layer.File, Mode: 0o755, Xattrs: map[string]string{"security.capability": capability, "user.x": "y"}}
	ro := e.open(t, e.layerOf(t, map[string]string{"ping": "ping"}, ping))
	if got := tree(t, ro)["ping"]; !strings.Contains(got, fmt.Sprintf("security.capability=%q", capability)) || !strings.Contains(got, `user.x="y"`) {
		t.Errorf("ping: %s", got)
	}
	changed := e.edit(t, ro, func(root string) {
		must(t, unix.Setxattr(filepath.Join(root, "ping"), "user.x", []byte("changed\x00binary"), 0))
		write(t, root, "new", "")
		must(t, unix.Setxattr(filepath.Join(root, "new"), "security.capability", []byte(capability), 0))
		mkdir(t, root, "dir")
		must(t, unix.Setxattr(filepath.Join(root, "dir"), "user.of-a-dir", []byte("1"), 0))
	})
	if got := tree(t, changed)["ping"]; !strings.Contains(got, "security.capability") || !strings.Contains(got, "changed") {
		t.Errorf("ping after a change: %s", got)
	}
	e.edit(t, changed, func(root string) { must(t, unix.Removexattr(filepath.Join(root, "ping"), "user.x")) })
}

func testSpecialFiles(t *testing.T, e *env) {
	base := e.layerOf(t, nil, layer.Entry{Path: "fifo", Type: layer.Fifo, Mode: 0o640})
	ro := e.open(t, base)
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	must(t, unix.Mkfifo(filepath.Join(rw.Root(), "fifo2"), 0o600))
	// A socket is nothing that a layer can hold: its maker is gone when the layer is used.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Close(fd))
	at, err := os.OpenRoot(rw.Root())
	must(t, err)
	defer at.Close()
	listener, err := net.Listen("unix", shortPath(t, rw.Root(), "socket"))
	must(t, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, listener.Close())
	must(t, at.Close())
	committed, err := rw.Commit()
	must(t, err)
	other := openStore(t, filepath.Join(t.TempDir(), "other"))
	elsewhere, err := e.mk(t, other, e.blob).Open(t.Context(), committed.Chain())
	must(t, err)
	tree(t, elsewhere).want(t, "fifo", "fifo2")
	must(t, errors.Join(committed.Release(), elsewhere.Release()))
}

// shortPath names a file in dir by few enough bytes for a socket's address.
func shortPath(t *testing.T, dir, name string) string {
	t.Helper()
	link := filepath.Join("/tmp", fmt.Sprintf("cairn-%d", os.Getpid()))
	must(t, os.Symlink(dir, link))
	t.Cleanup(func() { os.Remove(link) })
	return filepath.Join(link, name)
}

func testRootDirectory(t *testing.T, e *env) {
	described := e.layerOf(t, nil, layer.Entry{Path: ".", Type: layer.Dir, Mode: 0o1751, UID: 7, GID: 8}, dir("a"))
	silent := e.layerOf(t, nil, dir("b"))
	ro := e.open(t, described, silent)
	want := fmt.Sprintf("mode %o owner 7:8 ", unix.S_IFDIR|0o1751)
	if got := tree(t, ro)["."]; !strings.HasPrefix(got, want) {
		t.Errorf("root: %s, not %s", got, want)
	}
	kept := e.edit(t, ro, func(root string) { write(t, root, "c", "") })
	if got := tree(t, kept)["."]; !strings.HasPrefix(got, want) {
		t.Errorf("root after a commit: %s, not %s", got, want)
	}
	// Of a layer the root is no part: what is done to it does not outlast the step.
	changed := e.edit(t, kept, func(root string) { must(t, unix.Chmod(root, 0o700)) })
	if got := tree(t, changed)["."]; !strings.HasPrefix(got, want) {
		t.Errorf("root after chmod: %s, not %s", got, want)
	}
	if got := tree(t, e.open(t))["."]; !strings.HasPrefix(got, fmt.Sprintf("mode %o owner 0:0 ", unix.S_IFDIR|0o755)) {
		t.Errorf("root of scratch: %s", got)
	}
}

func testNothingChanged(t *testing.T, e *env) {
	ro := e.open(t, e.base(t))
	same := e.edit(t, ro, func(root string) {
		_, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
		must(t, err)
	})
	tree(t, ro).wantSame(t, "before and after nothing", tree(t, same))
	ix, err := e.st.LayerIndex(same.DiffID())
	must(t, err)
	if n := ix.Len(); n != 0 {
		t.Errorf("a layer of nothing has %d entries", n)
	}
}

func testStrangeNames(t *testing.T, e *env) {
	names := []string{"with space", "new\nline", "tab\t", "\xff\xfe", "ü", "-dash", "a:b,c=d\\e", strings.Repeat("n", 251), "wh.", ".wh", "..."}
	ro := e.open(t)
	first := e.edit(t, ro, func(root string) {
		for _, name := range names {
			write(t, root, name, name)
		}
		deep := strings.Repeat("dir/", 200)
		mkdir(t, root, deep)
		write(t, root, deep+"file", "")
	})
	e.edit(t, first, func(root string) {
		for _, name := range names {
			remove(t, root, name)
		}
	})
}
