package native_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/ptrace"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cairn-build/cairn/snapshot/native"
	"github.com/cairn-build/cairn/test/people"
)

// oracleVar names the file with what real root has made of the script, in the test binary that has been started again as a stranger.
const oracleVar = "NATIVE_TEST_ORACLE"

// strangerID is a uid that no passwd file and no sub-id range knows.
const strangerID = 61235

// script does what RUN lines do to owners, modes, names and devices. What it leaves must not depend on who really runs it.
const script = `set -e
mkdir -p /srv/a/b; echo one >/srv/a/one; chown 33:44 /srv/a/one; chmod 4750 /srv/a/one
echo two >/srv/a/two; chmod 0000 /srv/a/two; chown 7 /srv/a/two
mkdir /srv/closed; echo in >/srv/closed/in; chown 1000:1001 /srv/closed; chmod 0700 /srv/closed
mkdir /srv/setgid; chown 0:50 /srv/setgid; chmod 2775 /srv/setgid; echo x >/srv/setgid/f; mkdir /srv/setgid/d
mknod /srv/null c 1 3; mknod /srv/disk b 8 1; chmod 640 /srv/disk; mkfifo /srv/pipe
ln -s a/one /srv/link; chown -h 5:6 /srv/link; ln /srv/a/one /srv/hard; ln /etc/shared /etc/shared2
echo more >>/etc/appended; chown 9 /etc/owned; chmod 600 /etc/moded; touch -d @1500000000 /etc/touched
mv /etc/renamed /etc/newname; rm /etc/removed; rm -r /opt/gone; mv /opt/dir /opt/moved
rm /etc/link1; echo apart >>/etc/group1
cp -p /etc/suid /srv/suid; chown 3 /etc/suid
umask 077; echo masked >/srv/masked; mkdir /srv/maskdir
tar -C /srv -cf /tmp/t.tar a setgid; mkdir /srv/untar; tar -C /srv/untar -xpf /tmp/t.tar; rm /tmp/t.tar
dd if=/dev/zero of=/srv/sparse bs=1 count=1 seek=1048576 2>/dev/null
echo over >/srv/over; chown 12 /srv/over; echo new >/srv/new; mv /srv/new /srv/over
echo same >/etc/same.tmp; rm /etc/same.tmp
`

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(oracleVar) == "" && os.Getuid() == 0 {
		os.Exit(runAsStranger())
	}
	os.Exit(m.Run())
}

func runAsStranger() int {
	dir, err := os.MkdirTemp("/tmp", "native-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	answer := filepath.Join(dir, "oracle")
	if err := errors.Join(os.Chmod(dir, 0o755), oracle(answer, filepath.Join(dir, "root")), os.Chmod(answer, 0o644)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return people.Again([]people.Person{people.Stranger(strangerID)}, oracleVar+"="+answer)
}

// oracle writes down what the script changes when root runs it in a chroot: the kernel's own work, with nothing of ours but the comparison.
func oracle(answer, root string) error {
	blob, l, err := base(layer.Compression{})
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	ix, err := layer.Unpack(context.Background(), bytes.NewReader(blob), l, root, nil, layer.Limits{})
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env, cmd.Dir = []string{"PATH=/bin"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	dev := filepath.Join(root, "dev")
	if err := errors.Join(os.Mkdir(dev, 0o755), unix.Mknod(filepath.Join(dev, "null"), unix.S_IFCHR|0o666, 1<<8|3),
		unix.Mknod(filepath.Join(dev, "zero"), unix.S_IFCHR|0o666, 1<<8|5)); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if err := os.RemoveAll(dev); err != nil {
		return err
	}
	w, err := layer.NewWriter(io.Discard, layer.Compression{})
	if err != nil {
		return err
	}
	if err := layer.DiffRoot(context.Background(), root, layer.Stack([]*layer.Index{ix}, nil), asItIs{}, w); err != nil {
		return err
	}
	_, _, changed, err := w.Close()
	if err != nil {
		return err
	}
	b, err := json.Marshal(lines(changed))
	return errors.Join(err, os.WriteFile(answer, b, 0o644))
}

// asItIs believes the file system.
type asItIs struct{}

func (asItIs) Describe(*unix.Stat_t, *layer.Entry) {}
func (asItIs) Unchanged(string, *unix.Stat_t) bool { return false }

// lines describe entries but for times, and for whiteouts nothing else.
func lines(ix *layer.Index) []string {
	var out []string
	for e := range ix.All() {
		out = append(out, fmt.Sprintf("%s %c %o %d:%d %d %q %d:%d %s %v", e.Path, e.Type, e.Mode, e.UID, e.GID, e.Size, e.Linkname,
			e.Devmajor, e.Devminor, e.Sum, e.Xattrs))
	}
	return out
}

// base makes the layer that the script starts from: busybox, and files of all kinds of owners.
func base(c layer.Compression) ([]byte, layer.Layer, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, layer.Layer{}, err
	}
	then := time.Unix(1_600_000_000, 0)
	var items []layer.Item
	add := func(e layer.Entry, content []byte) {
		e.ModTime = then
		e.Size = int64(len(content))
		items = append(items, layer.Item{Entry: e, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
	}
	for _, d := range []string{"bin", "etc", "opt", "opt/dir", "opt/gone", "srv", "root"} {
		add(layer.Entry{Path: d, Type: layer.Dir, Mode: 0o755}, nil)
	}
	add(layer.Entry{Path: "tmp", Type: layer.Dir, Mode: 0o1777}, nil)
	add(layer.Entry{Path: "bin/busybox", Type: layer.File, Mode: 0o755}, busybox)
	for _, a := range strings.Fields("sh mkdir echo chown chmod mknod mkfifo ln touch mv rm cp tar dd stat cat id ls") {
		add(layer.Entry{Path: "bin/" + a, Type: layer.Symlink, Linkname: "busybox"}, nil)
	}
	for _, f := range []string{"appended", "moded", "touched", "renamed", "removed", "group1", "shared"} {
		add(layer.Entry{Path: "etc/" + f, Type: layer.File, Mode: 0o644}, []byte(f))
	}
	add(layer.Entry{Path: "etc/owned", Type: layer.File, Mode: 0o640, UID: 1, GID: 2}, []byte("owned"))
	add(layer.Entry{Path: "etc/suid", Type: layer.File, Mode: 0o4755, UID: 8, GID: 8}, []byte("suid"))
	add(layer.Entry{Path: "etc/secret", Type: layer.File, Mode: 0o600, UID: 8, GID: 8}, []byte("secret"))
	add(layer.Entry{Path: "etc/group2", Type: layer.Hardlink, Linkname: "etc/group1"}, nil)
	add(layer.Entry{Path: "etc/link1", Type: layer.Symlink, Linkname: "owned"}, nil)
	add(layer.Entry{Path: "opt/dir/f", Type: layer.File, Mode: 0o644, UID: 4}, []byte("f"))
	add(layer.Entry{Path: "opt/gone/f", Type: layer.File, Mode: 0o644}, []byte("f"))
	var blob bytes.Buffer
	w, err := layer.NewWriter(&blob, c)
	if err != nil {
		return nil, layer.Layer{}, err
	}
	if err := layer.WriteAll(context.Background(), w, items); err != nil {
		return nil, layer.Layer{}, err
	}
	diffID, mediaType, _, err := w.Close()
	l := layer.Layer{DiffID: diffID}
	l.Descriptor.MediaType, l.Descriptor.Size = mediaType, int64(blob.Len())
	return blob.Bytes(), l, err
}

// place is a snapshotter with one base layer, and the executor that goes with it.
type place struct {
	sn   *native.Snapshotter
	e    *ptrace.Executor
	base layer.Layer
}

func newPlace(t *testing.T, link bool) place {
	t.Helper()
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	t.Cleanup(func() { must(t, st.Close()) })
	blob, l, err := base(layer.Compression{})
	must(t, err)
	sn, err := native.New(native.Options{Store: st, Link: link, Blob: func(_ context.Context, of layer.Layer) (io.ReadCloser, error) {
		if of.DiffID == l.DiffID {
			return io.NopCloser(bytes.NewReader(blob)), nil
		}
		return st.OpenBlob(of.Descriptor.Digest)
	}})
	must(t, err)
	e, err := ptrace.New(ptrace.Options{Dir: filepath.Join(t.TempDir(), "ptrace")})
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return place{sn, e, l}
}

// run runs a script over a layer and commits it.
func (p place) run(t *testing.T, ro snapshot.ROLayer, script string) (snapshot.ROLayer, string) {
	t.Helper()
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	var out strings.Builder
	spec := executor.Spec{Root: rw.Root(), Owners: snapshot.OwnersOf(rw), Process: executor.Process{
		Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Stdout: &out, Stderr: &out,
	}}
	if err := p.e.Run(t.Context(), spec); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	next, err := rw.Commit()
	must(t, err)
	return next, strings.TrimSpace(out.String())
}

func changes(t *testing.T, p place, ro snapshot.ROLayer) []string {
	t.Helper()
	chain := ro.Chain()
	ix, err := p.sn.Index(chain[len(chain)-1])
	must(t, err)
	return lines(ix)
}

func both(t *testing.T, test func(t *testing.T, p place)) {
	for name, link := range map[string]bool{"link": true, "copy": false} {
		t.Run(name, func(t *testing.T) { test(t, newPlace(t, link)) })
	}
}

// A layer made by a stranger is the one that root makes.
func TestAsRoot(t *testing.T) {
	b, err := os.ReadFile(os.Getenv(oracleVar))
	if err != nil {
		t.Fatalf("the oracle needs root: %v", err)
	}
	var want []string
	must(t, json.Unmarshal(b, &want))
	if len(want) < 40 {
		t.Fatalf("the oracle knows only %d entries", len(want))
	}
	both(t, func(t *testing.T, p place) {
		ro, err := p.sn.Open(t.Context(), []layer.Layer{p.base})
		must(t, err)
		next, _ := p.run(t, ro, script)
		got := changes(t, p, next)
		for _, l := range got {
			if !slices.Contains(want, l) {
				t.Errorf("only here: %s", l)
			}
		}
		for _, l := range want {
			// Where files are linked, what happens to one name of a file does not happen to the others: as on an overlay, which root did without.
			if strings.HasPrefix(l, "etc/group2 ") && strings.HasSuffix(t.Name(), "/link") {
				continue
			}
			if !slices.Contains(got, l) {
				t.Errorf("only root's: %s", l)
			}
		}
	})
}

// One name of a file of the layers below is changed in each of several ways: the others stay as they are, as on an overlay.
func TestNamesPart(t *testing.T) {
	p := newPlace(t, true)
	ro, err := p.sn.Open(t.Context(), []layer.Layer{p.base})
	must(t, err)
	for what, want := range map[string][]string{
		"chown 7 /etc/group1":                         {"etc/group1 f 644 7:0"},
		"chmod 600 /etc/group2":                       {"etc/group2 f 600 0:0"},
		"chmod 755 /etc/group2":                       {"etc/group2 f 755 0:0"},
		"touch /etc/group2":                           {"etc/group2 f 644 0:0"},
		"mv /etc/group1 /etc/moved":                   {"etc/group1 w", "etc/moved f 644 0:0"},
		"rm /etc/group1":                              {"etc/group1 w"},
		"ln /etc/group1 /etc/more; rm /etc/group1":    {"etc/group1 w", "etc/more f 644 0:0"},
		"exec 9<>/etc/group1; chown 7 /dev/fd/9":      {"etc/group1 f 644 7:0"},
		"ln /etc/group1 /etc/more; chown 7 /etc/more": {"etc/group1 f 644 7:0", "etc/more h"},
	} {
		next, out := p.run(t, ro, what+"; stat -c %h /etc/group2")
		var got []string
		for _, l := range changes(t, p, next) {
			if f := strings.Fields(l); f[0] != "etc" {
				n := 4
				if f[1] != "f" {
					n = 2
				}
				got = append(got, strings.Join(f[:n], " "))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q (group2 has %s names)", what, got, want, out)
		}
	}
}

// What a step did to owners is seen by the next one, and by nobody beside it.
func TestSteps(t *testing.T) {
	both(t, func(t *testing.T, p place) {
		ro, err := p.sn.Open(t.Context(), []layer.Layer{p.base})
		must(t, err)
		show := "stat -c '%u:%g %a' /etc/owned /etc/suid /etc/secret; cat /etc/appended; echo; stat -c %h /etc/group1"
		const before = "1:2 640\n8:8 4755\n8:8 600\nappended\n2"
		next, _ := p.run(t, ro, "chown 77 /etc/owned; chmod 400 /etc/secret; echo + >>/etc/appended; mknod /dev0 c 5 6")
		_, out := p.run(t, next, show+"; stat -c %F /dev0; stat -c '%u %a' /bin/busybox; ls -l /dev0")
		if want := "77:2 640\n8:8 4755\n8:8 400\nappended+\n\n2\ncharacter special file\n0 755\n"; !strings.HasPrefix(out+"\n", want) || !strings.Contains(out, "5,   6") {
			t.Errorf("the next step sees\n%s", out)
		}
		same, out := p.run(t, ro, show)
		if out != before {
			t.Errorf("beside it is seen\n%s", out)
		}
		if got := changes(t, p, same); len(got) != 0 {
			t.Errorf("a step that only looks has changed %q", got)
		}
	})
}
