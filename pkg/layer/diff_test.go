package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// changed runs a shell script in the overlay of layers, and returns the upper directory and the layer that Diff makes of it.
func changed(t testing.TB, dirs []string, lower Tree, script string) (string, built) {
	t.Helper()
	upper := t.TempDir()
	root := mount(t, upper, dirs...)
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return upper, diffOf(t, upper, lower)
}

func diffOf(t testing.TB, upper string, lower Tree) built {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, Compression{})
	must(t, err)
	must(t, Diff(context.Background(), upper, lower, w))
	return closed(t, w, &b)
}

// list is the entries of a layer in short.
func list(ix *Index) string {
	var out []string
	for _, e := range entriesOf(ix) {
		s := string(e.Type) + " " + e.Path
		if e.Linkname != "" {
			s += ">" + e.Linkname
		}
		if e.Opaque {
			s += "!"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

var base = []raw{rd("d"), rf("d/1", "one"), rf("d/2", "two"), rd("d/sub"), rf("d/sub/x", "x"), rf("f", "f"), rl("l", "f"), rf("h1", "h"), rh("h2", "h1"), rd("e")}

func TestDiff(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"nothing":                   {"true", ""},
		"read":                      {"cat d/1 f", ""},
		"new file":                  {"echo > e/n", "d e, f e/n"},
		"new in root":               {"echo > n", "f n"},
		"changed":                   {"echo changed > d/1", "d d, f d/1"},
		"same again":                {"cp -p d/1 d/t; cp -p --no-preserve=mode d/t d/1; rm d/t; chmod 644 d/1; touch -d @1000 d/1", ""},
		"rewritten":                 {"printf one > d/1", "d d, f d/1"},
		"touched":                   {"touch d/1", "d d, f d/1"},
		"chmod and back":            {"chmod 600 d/1; chmod 644 d/1", ""},
		"chmod":                     {"chmod 600 d/1", "d d, f d/1"},
		"chown":                     {"chown 5 d/sub/x", "d d, d d/sub, f d/sub/x"},
		"chmod dir":                 {"chmod 700 d", "d d"},
		"touch dir":                 {"touch d", ""},
		"removed":                   {"rm d/1", "d d, w d/1"},
		"removed dir":               {"rm -r d", "w d"},
		"removed in root":           {"rm f", "w f"},
		"made and removed":          {"echo > e/n; rm e/n; mkdir g; rmdir g", ""},
		"dir replaced by dir":       {"rm -r d; mkdir d; echo > d/3", "d d, w d/1, w d/2, f d/3, w d/sub"},
		"dir replaced by empty dir": {"rm -r d; mkdir d", "d d, w d/1, w d/2, w d/sub"},
		"dir replaced some same":    {"cp -a d t; rm -r d; mv t d", ""},
		"dir replaced deep":         {"rm -r d; mkdir -p d/sub; echo > d/sub/y", "d d, w d/1, w d/2, d d/sub, w d/sub/x, f d/sub/y"},
		"dir replaced by file":      {"rm -r d; echo > d", "f d"},
		"file replaced by dir":      {"rm f; mkdir f; echo > f/n", "d f, f f/n"},
		"link replaced by dir":      {"rm l; mkdir l", "d l"},
		"renamed":                   {"mv d/1 d/one", "d d, w d/1, f d/one"},
		"hard links":                {"echo > e/a; ln e/a e/b; ln -s x e/c; ln -P e/c e/d", "d e, f e/a, h e/b>e/a, l e/c>x, h e/d>e/c"},
		"hard link to lower":        {"ln d/1 e/n", "d d, f d/1, d e, h e/n>d/1"},
		"one of two names changed":  {"echo > h2", "f h2"},
		"fifo and device":           {"mkfifo p; mknod c c 1 3; mknod b b 7 0", "b b, c c, p p"},
		"strange names":             {"mkdir 'a b'; echo > \"$(printf 'a b/\\377\\nx')\"", "d a b, f a b/\xff\nx"},
		"relinked symlink":          {"ln -sfn d l", "l l>d"},
	} {
		t.Run(name, func(t *testing.T) {
			dirs, lower := stackOf(t, base)
			upper, l := changed(t, dirs, lower, c.script)
			if got := list(l.ix); got != c.want {
				t.Errorf("layer has %q, want %q", got, c.want)
			}
			roundTrip(t, dirs, lower, upper, l)
		})
	}
}

// roundTrip unpacks a layer that Diff made and compares with the overlay it was made of.
func roundTrip(t testing.TB, dirs []string, lower Tree, upper string, l built) {
	t.Helper()
	again := t.TempDir()
	_, err := Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, again, lower, Limits{})
	must(t, err)
	want := sansDirTimes(show(t, openDir(t, mount(t, "", append(dirs[:len(dirs):len(dirs)], upper)...)), true))
	got := sansDirTimes(show(t, openDir(t, mount(t, "", append(dirs[:len(dirs):len(dirs)], again)...)), true))
	if got != want {
		t.Errorf("made (-) and unpacked (+):\n%s", diff(want, got))
	}
}

// sansDirTimes leaves out what a layer does not keep: the time of directories that are only parents, and names a hard link had below.
func sansDirTimes(s string) string {
	var out []string
	for l := range strings.SplitSeq(s, "\n") {
		if f := strings.Fields(l); strings.Contains(l, "\" d ") && len(f) > 5 {
			i := strings.Index(l, "\" d ")
			l = l[:i+4] + strings.Join(strings.Fields(l[i+4:])[:2], " ")
		}
		out = append(out, l)
	}
	return strings.Join(out, "\n")
}

func TestDiffSocketIsLeftOut(t *testing.T) {
	upper := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(upper, "s"))
	must(t, err)
	defer l.Close()
	if got := diffOf(t, upper, nil); len(entriesOf(got.ix)) != 0 {
		t.Error(list(got.ix))
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	open := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(names)
	}
	_, lower := stackOf(t, base)
	upper := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(upper, "d/sub/n/m"), 0o755))
	before := open()
	for range 5 {
		diffOf(t, upper, lower)
		stackOf(t, base, base)
		if _, err := unpackTar(t, t.TempDir(), nil, append(base[:len(base):len(base)], rf("d/sub", ""), rf("d/sub/x/y", ""))...); err == nil {
			t.Error("a file is a directory")
		}
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors were open, now %d", before, after)
	}
}

func TestDiffAttributes(t *testing.T) {
	dirs, lower := stackOf(t, base)
	upper, l := changed(t, dirs, lower, "true")
	for _, p := range []string{"n", "d"} {
		if p == "n" {
			must(t, os.WriteFile(filepath.Join(upper, p), []byte("x"), 0o755))
		} else {
			must(t, os.Mkdir(filepath.Join(upper, p), 0o755))
		}
		for k, v := range map[string]string{"user.mine": "1", "user.overlay.origin": "x", "user.overlay.impure": "y", "trusted.overlay.origin": "x"} {
			must(t, unix.Setxattr(filepath.Join(upper, p), k, []byte(v), 0))
		}
	}
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(t, unix.Setxattr(filepath.Join(upper, "n"), "security.capability", []byte(capability), 0))
	l = diffOf(t, upper, lower)
	d, _ := l.ix.Lookup("d")
	n, _ := l.ix.Lookup("n")
	if fmt.Sprint(d.Xattrs) != "map[user.mine:1]" || len(n.Xattrs) != 2 || n.Xattrs["security.capability"] != capability {
		t.Errorf("%q and %q", d.Xattrs, n.Xattrs)
	}
	must(t, unix.Setxattr(filepath.Join(upper, "d"), "user.overlay.redirect", []byte("/e"), 0))
	w, err := NewWriter(io.Discard, Compression{})
	must(t, err)
	if Diff(context.Background(), upper, lower, w) == nil {
		t.Error("a redirected directory was taken for a new one")
	}
}

// Whether the files below have fractions of seconds must not matter: those of a snapshot that was just made do, those unpacked again do not.
func TestDiffIsTheSameOverFractions(t *testing.T) {
	dirs, lower := stackOf(t, base)
	now := time.Unix(1000, 123456789)
	must(t, os.Chtimes(filepath.Join(dirs[0], "d/1"), now, now))
	script := "chmod 600 d/1; chmod 644 d/1; echo > e/n; touch -d @7 e/n e"
	_, a := changed(t, dirs, lower, script)
	must(t, os.Chtimes(filepath.Join(dirs[0], "d/1"), epoch(1000), epoch(1000)))
	_, b := changed(t, dirs, lower, script)
	if a.DiffID != b.DiffID || list(a.ix) != "d e, f e/n" {
		t.Errorf("%q and %q", list(a.ix), list(b.ix))
	}
}

func TestDiffRefusesWhiteoutNames(t *testing.T) {
	upper := t.TempDir()
	must(t, os.WriteFile(filepath.Join(upper, ".wh.passwd"), nil, 0o644))
	w, err := NewWriter(io.Discard, Compression{})
	must(t, err)
	if err := Diff(context.Background(), upper, nil, w); err == nil || !strings.Contains(err.Error(), "whiteout") {
		t.Error(err)
	}
}

// Random changes, made layer over layer: what Diff wrote must unpack to what was there.
func TestDiffGenerated(t *testing.T) {
	names := []string{"d", "d/1", "d/2", "d/sub", "d/sub/x", "f", "l", "e", "e/y", "n", "n/m"}
	for seed := range 60 {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		dirs, lower := stackOf(t, base)
		var ixs []*Index
		ix, err := unpackTar(t, "", nil, base...)
		must(t, err)
		ixs = append(ixs, ix)
		var scripts []string
		for range 3 {
			var script strings.Builder
			for range 1 + rnd.IntN(6) {
				a, b := names[rnd.IntN(len(names))], names[rnd.IntN(len(names))]
				fmt.Fprintf(&script, []string{"rm -rf %s || true; : %s\n", "mkdir -p %s 2>/dev/null || true; : %s\n", "echo %[2]s > %[1]s || true\n",
					"mv -T %s %s || true\n", "ln -f %s %s || true\n", "cp -aT %s %s || true\n", "ln -sfn /nonexistent/target %s || true; : %s\n", "chmod 700 %s || true; : %s\n"}[rnd.IntN(8)], a, b)
			}
			scripts = append(scripts, script.String())
			upper, l := changed(t, dirs, lower, "exec 2>/dev/null\n"+script.String())
			roundTrip(t, dirs, lower, upper, l)
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(scripts, "--\n"))
			}
			dirs, ixs = append(dirs, upper), append(ixs, l.ix)
			all := dirs
			lower = Stack(ixs, func(n int, name string) (io.ReadCloser, error) { return os.Open(filepath.Join(all[n], name)) })
		}
	}
}

// umoci is another reader of layers. It must make the same files of a layer of real ones.
func TestAgainstUmoci(t *testing.T) {
	for _, tool := range []string{"umoci", "skopeo"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s", tool)
		}
	}
	upper := t.TempDir()
	script := "mkdir -p usr/bin etc; find /bin/ -maxdepth 1 ! -type d -size -100k -exec cp -a -t usr/bin {} +; cp /bin/cat usr/bin/cat; cp -a /etc/. etc/; ln -s usr/bin bin; chmod u+s usr/bin/cat; ln usr/bin/cat usr/bin/tac2; mkdir -m 1777 tmp; mkfifo tmp/p; " +
		"setfattr -n user.x -v y usr/bin/cat || true; touch -d @-5 tmp/old; mkdir -m 555 tmp/ro; echo > \"$(printf 'tmp/caf\\351')\"; find . -type s -delete"
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = upper
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l := diffOf(t, upper, nil)
	dir := t.TempDir()
	_, err = Unpack(context.Background(), bytes.NewReader(l.blob), l.Layer, dir, nil, Limits{})
	must(t, err)
	ours := show(t, openDir(t, dir), true)
	if source := show(t, openDir(t, upper), true); sansDirTimes(source) != sansDirTimes(ours) {
		t.Errorf("source (-) and unpacked (+):\n%s", diff(source, ours))
	}
	theirs := show(t, openDir(t, umociUnpack(t, l)), true)
	// umoci leaves the root as it made it.
	_, ours, _ = strings.Cut(ours, "\n")
	_, theirs, _ = strings.Cut(theirs, "\n")
	if ours != theirs {
		t.Errorf("ours (-) and umoci's (+):\n%s", diff(ours, theirs))
	}
}

// umociUnpack has umoci unpack an image of one layer and returns its root filesystem.
func umociUnpack(t testing.TB, l built) string {
	t.Helper()
	dir, err := umociImage(t.TempDir(), l)
	must(t, err)
	return dir
}

// umociImage has umoci unpack an image of layers, bottom first, in a directory, and returns its root filesystem.
func umociImage(dir string, layers ...built) (string, error) {
	blobs := filepath.Join(dir, "oci/blobs/sha256")
	var errs error
	put := func(b []byte) string {
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		errs = errors.Join(errs, os.WriteFile(filepath.Join(blobs, sum), b, 0o644))
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, sum, len(b))
	}
	errs = os.MkdirAll(blobs, 0o755)
	var ids, descs []string
	for _, l := range layers {
		ids = append(ids, fmt.Sprintf("%q", l.DiffID))
		descs = append(descs, fmt.Sprintf(`{"mediaType":%q,%s}`, l.Descriptor.MediaType, put(l.blob)))
	}
	config := put(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}`, strings.Join(ids, ",")))
	manifest := put(fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[%s]}`,
		config, strings.Join(descs, ",")))
	errs = errors.Join(errs, os.WriteFile(filepath.Join(dir, "oci/oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(filepath.Join(dir, "oci/index.json"), fmt.Appendf(nil,
			`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"org.opencontainers.image.ref.name":"x"}}]}`, manifest), 0o644))
	if errs != nil {
		return "", errs
	}
	root := filepath.Join(dir, "rootfs")
	out, err := exec.Command("umoci", "raw", "unpack", "--image", filepath.Join(dir, "oci:x"), root).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("umoci: %w: %s", err, out)
	}
	return root, nil
}
