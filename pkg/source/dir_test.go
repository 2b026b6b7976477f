package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/layer/layertest"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// write makes files below dir: "name" → content; a name that ends in "/" is a directory, "->" makes a symlink.
func write(t testing.TB, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		link, target, isLink := strings.Cut(name, "->")
		full := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, full)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o755)
		default:
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// names lists a tree: directories end in "/".
func names(t testing.TB, tree layer.Tree, dir string) []string {
	t.Helper()
	entries, err := layertest.All(tree.ReadDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.Type != layer.Dir {
			out = append(out, e.Path)
			continue
		}
		out = append(out, e.Path+"/")
		out = append(out, names(t, tree, e.Path)...)
	}
	return out
}

func openTestDir(t testing.TB, dir string) *Context {
	t.Helper()
	c, err := OpenDir(context.Background(), dir, ContextOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestDirEntries(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a=1", "d/b=22", "l->a", "d/up->../../x")
	if err := os.Chmod(filepath.Join(dir, "a"), 0o4751|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d/hard")); err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1234567890, 987)
	if err := os.Chtimes(filepath.Join(dir, "d/b"), when, when); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(filepath.Join(dir, "d/b"), 5, 6); err != nil {
			t.Fatal(err)
		}
	}
	c := openTestDir(t, dir)
	if got, want := fmt.Sprint(names(t, c, ".")), "[a d/ d/b d/hard d/up l]"; got != want {
		t.Errorf("names %s, want %s", got, want)
	}
	a, err := c.Lstat("a")
	if err != nil || a.Type != layer.File || a.Mode != 0o4751 || a.Size != 1 || a.UID != 0 || a.GID != 0 {
		t.Errorf("a is %+v, %v", a, err)
	}
	b, err := c.Lstat("d/b")
	if err != nil || !b.ModTime.Equal(when) || b.UID != 0 || b.GID != 0 {
		t.Errorf("d/b is %+v, %v", b, err)
	}
	l, err := c.Lstat("d/up")
	if err != nil || l.Type != layer.Symlink || l.Linkname != "../../x" || l.Mode != 0o777 {
		t.Errorf("d/up is %+v, %v", l, err)
	}
	ida, _ := c.LinkID("a")
	idh, _ := c.LinkID("d/hard")
	idb, _ := c.LinkID("d/b")
	if ida == "" || ida != idh || idb != "" {
		t.Errorf("link ids %q %q %q", ida, idh, idb)
	}
	d, err := c.Digest(t.Context(), "d/b")
	if err != nil || d != digest.FromString("22") {
		t.Errorf("digest %s, %v", d, err)
	}
	for _, name := range []string{"nope", "a/b", "l/x", "d/nope/x", "../a", "/a", "", "d/../a"} {
		if _, err := c.Lstat(name); err == nil {
			t.Errorf("Lstat(%q) succeeds", name)
		}
	}
	if _, err := c.Lstat("nope"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error of a missing name: %v", err)
	}
}

// SECURITY.md C3: nothing outside the context can be read through it.
func TestC3SymlinksDoNotLeaveTheContext(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "ctx")
	write(t, top, "canary=SECRET", "ctx/", "ctx/rel->../canary", "ctx/abs->"+filepath.Join(top, "canary"), "ctx/dir->..", "ctx/sub/up->../..",
		"ctx/proc->/proc/self/root", "ctx/dangling->nowhere")
	c := openTestDir(t, dir)
	for _, name := range []string{"rel", "abs", "dir/canary", "sub/up/canary", "proc" + filepath.Join(top, "canary"), "dangling"} {
		if f, err := c.Open(name); err == nil {
			data, _ := io.ReadAll(f)
			t.Errorf("HOST FILE WAS READ through %s: %q", name, data)
		}
		if p, err := layer.Resolve(c, name); err == nil {
			if f, err := c.Open(p); err == nil {
				data, _ := io.ReadAll(f)
				t.Errorf("HOST FILE WAS READ through %s, resolved to %s: %q", name, p, data)
			}
		}
		if _, err := c.Digest(t.Context(), name); err == nil {
			t.Errorf("HOST FILE WAS HASHED through %s", name)
		}
	}
	if _, err := layertest.All(c.ReadDir("dir")); err == nil {
		t.Error("HOST DIRECTORY WAS LISTED through a symlink")
	}
}

// SECURITY.md C3: a directory that turns into a symlink while the context is open is not followed.
func TestC3DirectorySwappedForSymlink(t *testing.T) {
	top := t.TempDir()
	write(t, top, "out/f=SECRET", "ctx/d/f=mine")
	c := openTestDir(t, filepath.Join(top, "ctx"))
	if _, err := c.Lstat("d/f"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(top, "ctx/d"), filepath.Join(top, "ctx/old")); err != nil {
		t.Fatal(err)
	}
	write(t, top, "ctx/d->../out")
	if f, err := c.Open("d/f"); err == nil {
		data, _ := io.ReadAll(f)
		t.Errorf("HOST FILE WAS READ: %q", data)
	}
}

// SECURITY.md C3: the ignore file is a small regular file of the context.
func TestC3IgnoreFile(t *testing.T) {
	for name, prepare := range map[string]func(dir string){
		"symlink out": func(dir string) { write(t, dir, ".dockerignore->../canary") },
		"absolute":    func(dir string) { write(t, dir, ".dockerignore->/etc/passwd") },
		"too large":   func(dir string) { write(t, dir, ".dockerignore="+strings.Repeat("x\n", maxIgnoreFile)) },
		"a fifo": func(dir string) {
			if err := unix.Mkfifo(filepath.Join(dir, ".dockerignore"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"a directory": func(dir string) { write(t, dir, ".dockerignore/x=1") },
	} {
		top := t.TempDir()
		dir := filepath.Join(top, "ctx")
		write(t, top, "canary=kept", "ctx/kept=1")
		prepare(dir)
		c, err := OpenDir(context.Background(), dir, ContextOptions{})
		if err == nil {
			t.Errorf("%s: opened with %v", name, names(t, c, "."))
			_ = c.Close()
			continue
		}
		// What a link out of the context leads to is not read, and not passed over in silence either.
		if isLink := strings.HasPrefix(name, "symlink") || name == "absolute"; isLink && !strings.Contains(err.Error(), "leads out of the build context") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// SECURITY.md C4: what cannot be read does not hang the build.
func TestC4SpecialFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f=1")
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "sock")}); err != nil {
		t.Fatal(err)
	}
	c := openTestDir(t, dir)
	if got := fmt.Sprint(names(t, c, ".")); got != "[f fifo sock]" {
		t.Errorf("names %s", got)
	}
	e, err := c.Lstat("fifo")
	if err != nil || e.Type != layer.Fifo {
		t.Errorf("fifo is %+v, %v", e, err)
	}
	if e, err := c.Lstat("sock"); err != nil || e.Type != layer.File || e.Size != 0 {
		t.Errorf("the socket is %+v, %v", e, err)
	}
	r, err := c.Open("sock")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(r); err != nil || len(data) > 0 {
		t.Errorf("the socket holds %q, %v", data, err)
	}
	if d, err := c.Digest(t.Context(), "sock"); err != nil || d != digest.FromString("") {
		t.Errorf("the digest of the socket is %s, %v", d, err)
	}
	if _, err := c.Open("fifo"); err == nil {
		t.Error("a FIFO was opened")
	}
	// A FIFO that takes the place of a file that was seen.
	if err := os.Remove(filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "f"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Open("f")
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a FIFO was opened in place of a file")
		}
	case <-time.After(10 * time.Second):
		t.Error("opening a FIFO hangs")
	}
}

// SECURITY.md C4: what is hashed is what is copied.
func TestC4ChangeBetweenHashAndCopy(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f=before", "g=before")
	c := openTestDir(t, dir)
	if _, err := c.Digest(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "f=after!")
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "f"), later, later); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open("f"); err == nil {
		t.Error("a file that changed after it was hashed is opened")
	}
	// A change while the file is read shows at its end.
	f, err := c.Open("g")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "g"), later, later); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, f); err == nil {
		t.Error("a file that changed while it was read is read to its end")
	}
}

// memory remembers digests as cache.Files does, by name and stat.
type memory struct {
	known map[string]digest.Digest
	asked []string
	seen  []string // handed over, directory and name
	saved int
}

func key(path string, fi fs.FileInfo) string {
	return fmt.Sprint(path, fi.Size(), fi.ModTime().UnixNano(), fi.Mode())
}

func (m *memory) Digest(path string, fi fs.FileInfo) (layer.Sum, bool) {
	m.asked = append(m.asked, path)
	d, ok := m.known[key(path, fi)]
	return layer.SumOf(d), ok
}

func (m *memory) Save(seen func(visit func(dir string, fi fs.FileInfo, sum layer.Sum) error) error) error {
	m.saved++
	return seen(func(dir string, fi fs.FileInfo, sum layer.Sum) error {
		m.seen = append(m.seen, dir+"\x00"+fi.Name())
		m.known[key(path.Join(dir, fi.Name()), fi)] = sum.Digest()
		return nil
	})
}

func TestDigestsAreRemembered(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f=1")
	m := &memory{known: map[string]digest.Digest{}}
	o := ContextOptions{Digests: func(root string) (Digests, error) {
		if root != dir {
			t.Errorf("asked for %s, want %s", root, dir)
		}
		return m, nil
	}}
	for range 2 {
		c, err := OpenDir(context.Background(), dir, o)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if d, err := c.Digest(t.Context(), "f"); err != nil || d != digest.FromString("1") {
				t.Errorf("digest %s, %v", d, err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(m.asked) != "[f f]" || len(m.known) != 1 || m.saved != 2 {
		t.Errorf("asked %v, %d known, saved %d times", m.asked, len(m.known), m.saved)
	}
	// What is remembered is believed: that is what makes a second build fast.
	for k := range m.known {
		m.known[k] = digest.FromString("other")
	}
	c, err := OpenDir(context.Background(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if d, _ := c.Digest(t.Context(), "f"); d != digest.FromString("other") {
		t.Errorf("the file was read although its digest is known: %s", d)
	}
}

func TestDockerfileLookup(t *testing.T) {
	for _, c := range []struct {
		name, dockerfile   string
		files              []string
		want, wantName     string
		wantErr            string
		wantFiles, wantNot string
	}{
		{name: "default", files: []string{"ctx/Dockerfile=D"}, want: "D", wantName: "Dockerfile"},
		{name: "lower case", files: []string{"ctx/dockerfile=d"}, want: "d", wantName: "dockerfile"},
		{name: "both", files: []string{"ctx/dockerfile=d", "ctx/Dockerfile=D"}, want: "D", wantName: "Dockerfile"},
		{name: "none", files: []string{"ctx/x=1"}, wantErr: "no file \"Dockerfile\""},
		{name: "ignored is read", files: []string{"ctx/Dockerfile=D", "ctx/.dockerignore=*"}, want: "D", wantName: "Dockerfile", wantNot: "Dockerfile"},
		{name: "own ignore file first", files: []string{"ctx/Dockerfile=D", "ctx/.dockerignore=a", "ctx/Dockerfile.dockerignore=b", "ctx/a=", "ctx/b="},
			want: "D", wantName: "Dockerfile", wantFiles: "a", wantNot: "b"},
		{name: "named outside", dockerfile: "other/My.df", files: []string{"other/My.df=M", "ctx/.dockerignore=a", "ctx/a=", "ctx/b="}, want: "M",
			wantName: "My.df", wantFiles: "b", wantNot: "a"},
		{name: "named outside with ignore file", dockerfile: "other/My.df", files: []string{"other/My.df=M", "other/My.df.dockerignore=b",
			"ctx/.dockerignore=a", "ctx/a=", "ctx/b="}, want: "M", wantName: "My.df", wantFiles: "a", wantNot: "b"},
		{name: "empty own ignore file", files: []string{"ctx/Dockerfile=D", "ctx/.dockerignore=a", "ctx/Dockerfile.dockerignore=", "ctx/a="},
			want: "D", wantName: "Dockerfile", wantFiles: "a"},
		{name: "named missing", dockerfile: "nope", files: []string{"ctx/x=1"}, wantErr: "nope"},
		{name: "named directory", dockerfile: "ctx", files: []string{"ctx/x=1"}, wantErr: "is a directory"},
		{name: "link in the context", files: []string{"ctx/Dockerfile->d/real", "ctx/d/real=R"}, want: "R", wantName: "Dockerfile"},
		{name: "link out of the context", files: []string{"canary=SECRET", "ctx/Dockerfile->../canary"}, wantErr: "Dockerfile is a link to ../canary, which leads out"},
		{name: "absolute link", files: []string{"canary=SECRET", "ctx/Dockerfile->/canary"}, wantErr: "Dockerfile is a link to /canary, which leads out"},
		{name: "link to nothing", files: []string{"ctx/Dockerfile->d/real", "ctx/d/x=1"}, wantErr: "Dockerfile is a link to d/real, which is not there"},
		{name: "standard input", dockerfile: "-", files: []string{"ctx/.dockerignore=a", "ctx/a="}, want: "FROM stdin", wantName: "Dockerfile", wantNot: "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := t.TempDir()
			write(t, top, c.files...)
			df := c.dockerfile
			if df != "" && df != "-" {
				df = filepath.Join(top, df)
			}
			ctx, err := Open(context.Background(), filepath.Join(top, "ctx"), df, ContextOptions{Stdin: strings.NewReader("FROM stdin")})
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Fatalf("error %v, want %q", err, c.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer ctx.Close()
			if string(ctx.Dockerfile) != c.want || ctx.DockerfileName != c.wantName {
				t.Errorf("Dockerfile %q %q, want %q %q", ctx.DockerfileName, ctx.Dockerfile, c.wantName, c.want)
			}
			got := names(t, ctx, ".")
			if c.wantFiles != "" && !slices.Contains(got, c.wantFiles) {
				t.Errorf("%s is not in %v", c.wantFiles, got)
			}
			if c.wantNot != "" && slices.Contains(got, c.wantNot) {
				t.Errorf("%s is in %v", c.wantNot, got)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file=1")
	for where, want := range map[string]string{filepath.Join(dir, "nope"): "no such file", filepath.Join(dir, "file"): "not a directory",
		"ftp://host/x": "no such file", "--upload-pack=x": "no such file"} {
		if _, err := Open(context.Background(), where, "", ContextOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", where, err, want)
		}
	}
}
