package fakeid_test

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
	"testing"
	"time"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/executor/namespace"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/pkg/userns"
	"github.com/cairn-build/cairn/snapshot"
	"github.com/cairn-build/cairn/snapshot/overlay"
	"github.com/cairn-build/cairn/test/people"
)

const (
	// placeVar is the place in which this test binary has been started again, answerVar the file with what root made of the scripts.
	placeVar, answerVar = "FAKEID_TEST_PLACE", "FAKEID_TEST_ANSWER"
	// strangerID is a uid that no passwd file and no sub-id range knows.
	strangerID = 61236
)

// places are where the scripts run. What root makes of them is the kernel's own work; in a user namespace with many ids devices are imitated,
// with one id everything.
func places() map[string]userns.IDMap {
	return map[string]userns.IDMap{"root": userns.NoMap, "many": userns.Identity, "one": userns.SingleID}
}

func TestMain(m *testing.M) {
	place := os.Getenv(placeVar)
	if place == "" && os.Getuid() == 0 {
		os.Exit(everywhere())
	}
	want := userns.Single
	if place == "root" || place == "many" {
		want = userns.Full
	}
	done, code, err := userns.EnterAs(want)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func everywhere() int {
	dir, err := os.MkdirTemp("/tmp", "fakeid-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	exe, err := people.CopySelf(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile=") })
	code := 0
	for _, place := range []string{"root", "many", "one"} {
		temp := filepath.Join(dir, place)
		owner := map[string]int{"one": strangerID}[place]
		if err := errors.Join(os.Mkdir(temp, 0o755), os.Chown(temp, owner, owner)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		cmd := exec.Command(exe, args...)
		cmd.Env = append(os.Environ(), placeVar+"="+place, answerVar+"="+filepath.Join(dir, "answer"), "TMPDIR="+temp)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		switch place {
		case "one":
			people.Stranger(strangerID).Become(cmd)
		case "many":
			// Root that may not make a mount namespace, but in a user namespace.
			cmd.Args = append([]string{"setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", exe}, args...)
			cmd.Path, cmd.Err = exec.LookPath("setpriv")
		}
		fmt.Println("# in the place", place)
		if err := cmd.Run(); err != nil {
			fmt.Printf("# in the place %s: %v\n", place, err)
			code = 1
		}
	}
	return code
}

// step is a command as some user.
type step struct{ user, script string }

// steps do what RUN lines do to owners, modes, names and devices.
func steps() []step {
	return []step{{"", `set -e
mkdir -p /srv/a/b; echo one >/srv/a/one; chown 33:44 /srv/a/one; chmod 4750 /srv/a/one
echo two >/srv/a/two; chmod 0000 /srv/a/two; chown 7 /srv/a/two
mkdir /srv/closed; echo in >/srv/closed/in; chown 1002:1001 /srv/closed; chmod 0700 /srv/closed
mkdir /srv/setgid; chown 0:50 /srv/setgid; chmod 2775 /srv/setgid; echo x >/srv/setgid/f; mkdir /srv/setgid/d
mknod /srv/null c 1 3; mknod -m 640 /srv/disk b 8 1; chown 0:6 /srv/disk; ln /srv/null /srv/nil; mkfifo /srv/pipe; chown 3 /srv/pipe
ln -s a/one /srv/link; chown -h 5:6 /srv/link; ln /srv/a/one /srv/hard
echo more >>/etc/appended; chown 9 /etc/owned; chmod 600 /etc/moded; touch -d @1500000000 /etc/touched
mv /etc/renamed /etc/newname; rm /etc/removed; rm -r /opt/gone; mv /opt/dir /opt/moved
echo apart >>/etc/pair1; cp -p /etc/suid /srv/suid; chown 3 /etc/suid
umask 077; echo masked >/srv/masked; mkdir /srv/maskdir
tar -C /srv -cf /tmp/t.tar a setgid; mkdir /srv/untar; tar -C /srv/untar -xpf /tmp/t.tar; rm /tmp/t.tar
echo over >/srv/over; chown 12 /srv/over; echo new >/srv/new; mv /srv/new /srv/over
touch /srv/gone; chown 13 /srv/gone; rm /srv/gone; touch /srv/come; umask 022; : >/tmp/roots; chmod 666 /tmp/roots
stat -c '%n %u:%g %a %h' /srv/a/* /srv/setgid/* /etc/*`},
		{"ann", `id; cd /tmp
for c in 'touch /denied' 'cat /etc/secret' 'ls /srv/closed' 'chown 0 mine' 'chmod 777 /etc/owned' 'rm roots' 'mv roots x' 'mkdir /d' 'mknod n c 1 3' \
	'ln -s x /srv/x' 'echo >>/etc/passwd' 'cd /srv/closed' '/srv/a/one' 'touch -d @1 /etc/appended'; do sh -c "$c" >/dev/null 2>&1 && echo "NOT DENIED: $c"; done
echo mine >mine; mkdir d; ln -s x l; mkfifo p; chmod 600 mine; echo more >>roots; touch roots; echo s >/srv/setgid/ann; chmod 640 mine; chown :50 mine
umask 027; : >masked; mkdir d/e; mv mine d/moved; echo said >/dev/stdout; : >gone; rm gone; sh -c '(id -u; : >from)& wait'
stat -c '%n %u:%g %a %F' * d/* /srv/setgid/ann`},
		{"", `stat -c '%n %u:%g %a' /tmp/* /srv/a/* /etc/*; mv /srv/disk /srv/moved; chown 1:1 /tmp/from; mv /srv/hard /srv/harder; chmod 640 /etc/pair2; rm -r /srv/untar; touch /tmp/root; stat -c '%u:%g' /tmp/root`},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// base makes the layer that the steps start from: busybox, and files of all kinds of owners.
func base() ([]byte, layer.Layer, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, layer.Layer{}, err
	}
	var items []layer.Item
	add := func(e layer.Entry, content []byte) {
		e.ModTime, e.Size = time.Unix(1_600_000_000, 0), int64(len(content))
		items = append(items, layer.Item{Entry: e, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
	}
	for _, d := range []string{"bin", "etc", "opt", "opt/dir", "opt/gone", "srv", "root"} {
		add(layer.Entry{Path: d, Type: layer.Dir, Mode: 0o755}, nil)
	}
	add(layer.Entry{Path: "tmp", Type: layer.Dir, Mode: 0o1777}, nil)
	add(layer.Entry{Path: "bin/busybox", Type: layer.File, Mode: 0o755}, busybox)
	for a := range strings.FieldsSeq("sh mkdir echo chown chmod mknod mkfifo ln touch mv rm cp tar stat cat id ls") {
		add(layer.Entry{Path: "bin/" + a, Type: layer.Symlink, Linkname: "busybox"}, nil)
	}
	add(layer.Entry{Path: "etc/passwd", Type: layer.File, Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/:/bin/sh\n"))
	add(layer.Entry{Path: "etc/group", Type: layer.File, Mode: 0o644}, []byte("root:x:0:\nann:x:1001:\nstaff:x:50:ann\n"))
	for _, f := range []string{"appended", "moded", "touched", "renamed", "removed"} {
		add(layer.Entry{Path: "etc/" + f, Type: layer.File, Mode: 0o644}, []byte(f))
	}
	add(layer.Entry{Path: "etc/owned", Type: layer.File, Mode: 0o640, UID: 1, GID: 2}, []byte("owned"))
	add(layer.Entry{Path: "etc/suid", Type: layer.File, Mode: 0o4755, UID: 8, GID: 8}, []byte("suid"))
	add(layer.Entry{Path: "etc/secret", Type: layer.File, Mode: 0o600, UID: 8, GID: 8}, []byte("secret"))
	add(layer.Entry{Path: "etc/pair1", Type: layer.File, Mode: 0o644, UID: 17}, []byte("pair"))
	add(layer.Entry{Path: "etc/pair2", Type: layer.Hardlink, Linkname: "etc/pair1"}, nil)
	add(layer.Entry{Path: "opt/dir/f", Type: layer.File, Mode: 0o644, UID: 4}, []byte("f"))
	add(layer.Entry{Path: "opt/gone/f", Type: layer.File, Mode: 0o644}, []byte("f"))
	var blob bytes.Buffer
	w, err := layer.NewWriter(&blob, layer.Compression{})
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

// TestSteps: what comes of the steps, what they see, and what they may not do, is in every place what it is for root.
func TestSteps(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	t.Cleanup(func() { must(t, st.Close()) })
	blob, below, err := base()
	must(t, err)
	mode, _ := userns.Current()
	if want, ok := places()[os.Getenv(placeVar)]; ok && mode.Map != want {
		t.Fatalf("the place %s is %s", os.Getenv(placeVar), mode)
	}
	sn, err := overlay.New(overlay.Options{Store: st, OneOwner: mode.Map == userns.SingleID, Blob: func(_ context.Context, of layer.Layer) (io.ReadCloser, error) {
		if of.DiffID == below.DiffID {
			return io.NopCloser(bytes.NewReader(blob)), nil
		}
		return st.OpenBlob(of.Descriptor.Digest)
	}})
	must(t, err)
	e, err := namespace.New(namespace.Options{Dir: filepath.Join(t.TempDir(), "state")})
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	ro, err := sn.Open(t.Context(), []layer.Layer{below})
	must(t, err)
	var got []string
	for _, s := range steps() {
		next, out := run(t, e, ro, s)
		got = append(got, strings.Split(out, "\n")...)
		chain := next.Chain()
		ix, err := st.LayerIndex(chain[len(chain)-1].DiffID)
		must(t, err)
		for e := range ix.All() {
			got = append(got, fmt.Sprintf("%s %c %o %d:%d %d %q %d:%d %v", e.Path, e.Type, e.Mode, e.UID, e.GID, e.Size, e.Linkname, e.Devmajor, e.Devminor, e.Xattrs))
		}
		ro = next
	}
	if strings.Contains(strings.Join(got, "\n"), "NOT DENIED") {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
	compare(t, got)
}

// run runs one step over a layer and commits it.
func run(t *testing.T, e executor.Executor, ro snapshot.ROLayer, s step) (snapshot.ROLayer, string) {
	t.Helper()
	rw, err := ro.NewRWLayer()
	must(t, err)
	defer func() { must(t, rw.Release()) }()
	var out strings.Builder
	err = e.Run(t.Context(), executor.Spec{Root: rw.Root(), Owners: snapshot.OwnersOf(rw), Process: executor.Process{
		Args: []string{"/bin/sh", "-c", s.script}, Env: []string{"PATH=/bin"}, User: s.user, Stdout: &out, Stderr: &out,
	}})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	next, err := rw.Commit()
	must(t, err)
	return next, strings.TrimSpace(out.String())
}

// compare compares with what root made, who comes first.
func compare(t *testing.T, got []string) {
	answer := os.Getenv(answerVar)
	switch os.Getenv(placeVar) {
	case "":
		t.Skip("what it is to be like, only root can tell")
	case "root":
		b, err := json.Marshal(got)
		must(t, errors.Join(err, os.WriteFile(answer, b, 0o644)))
		return
	}
	b, err := os.ReadFile(answer)
	must(t, err)
	var want []string
	must(t, json.Unmarshal(b, &want))
	if len(want) < 80 {
		t.Fatalf("root has made only %q", want)
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("only here: %s", line)
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("only root's: %s", line)
		}
	}
}
