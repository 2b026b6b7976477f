package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func openStore(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing store: %v", err)
		}
	})
	return s
}

func newStore(t *testing.T) *Store { return openStore(t, filepath.Join(t.TempDir(), "store")) }

func putBlob(t *testing.T, s *Store, content string) ocispec.Descriptor {
	t.Helper()
	d, err := s.PutBlob(t.Context(), ocispec.MediaTypeImageLayer, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantNoProblems(t *testing.T, s *Store) {
	t.Helper()
	for _, p := range s.Check(t.Context(), true) {
		t.Errorf("check: %v", p)
	}
}

func TestOpenModesDespiteUmask(t *testing.T) {
	for _, umask := range []int{0, 0o77, 0o777} {
		old := syscall.Umask(umask)
		root := filepath.Join(t.TempDir(), "a", "store")
		if umask == 0o777 {
			// The parents are the caller's; with this umask they could not be entered by an ordinary user.
			syscall.Umask(0o77)
			if err := os.MkdirAll(filepath.Dir(root), 0o700); err != nil {
				t.Fatal(err)
			}
			syscall.Umask(umask)
		}
		s, err := Open(root)
		if err != nil {
			syscall.Umask(old)
			t.Fatal(err)
		}
		_, err = s.TempDir("x")
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return err
			}
			fi, err := e.Info()
			if err == nil && fi.Mode().Perm() != 0o700 {
				t.Errorf("umask %o: %s has mode %o", umask, path, fi.Mode().Perm())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		s.Close()
	}
}

func TestOpenClosesRoot(t *testing.T) {
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	openStore(t, root)
	if fi, _ := os.Stat(root); fi.Mode().Perm() != 0o700 {
		t.Errorf("root has mode %o", fi.Mode().Perm())
	}
}

// What is named by mistake keeps its mode and its files.
func TestOpenLeavesOthersAlone(t *testing.T) {
	for name, c := range map[string]struct {
		mode os.FileMode
		file string
		want string
	}{
		"temporary files": {0o777 | os.ModeSticky, "", "others can write to it (mode 777)"},
		"a group's":       {0o770, "", "others can write to it (mode 770)"},
		"a home":          {0o755, "precious", `it holds other files, such as "precious"`},
	} {
		dir := t.TempDir()
		if c.file != "" {
			if err := os.WriteFile(filepath.Join(dir, c.file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "hint:") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode()&^os.ModeDir != c.mode {
			t.Errorf("%s: mode %v, %v", name, fi.Mode(), err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 1 {
			t.Errorf("%s: wrote %v", name, entries)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{"link", "file"}
	if os.Geteuid() == 0 {
		foreign := filepath.Join(dir, "foreign")
		if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 12345, 12345)); err != nil {
			t.Fatal(err)
		}
		names = append(names, "foreign")
	}
	for _, name := range names {
		if s, err := Open(filepath.Join(dir, name)); err == nil {
			s.Close()
			t.Errorf("opened %s", name)
		}
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "real")); len(entries) > 0 {
		t.Errorf("wrote through the symlink: %v", entries)
	}
}

func TestBlob(t *testing.T) {
	s := newStore(t)
	content := strings.Repeat("some content\n", 100_000)
	w, err := s.NewBlob(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.Copy(w, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit(digest.FromString(content))
	if err != nil {
		t.Fatal(err)
	}
	if d.Digest != digest.FromString(content) || d.Size != int64(len(content)) {
		t.Errorf("descriptor %v", d)
	}
	if size, ok := s.HasBlob(d.Digest); !ok || size != d.Size {
		t.Errorf("HasBlob: %d, %v", size, ok)
	}
	got, err := s.ReadBlob(d.Digest, d.Size)
	if err != nil || string(got) != content {
		t.Errorf("ReadBlob: %d bytes, %v", len(got), err)
	}
	if _, err := s.ReadBlob(d.Digest, d.Size-1); err == nil {
		t.Error("ReadBlob ignored its limit")
	}
	if _, err := w.Commit(""); err == nil {
		t.Error("committed twice")
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("wrote after commit")
	}
	wantNoProblems(t, s)
}

func TestBlobOfOtherAlgorithm(t *testing.T) {
	s := newStore(t)
	content := "hello"
	for _, algorithm := range []digest.Algorithm{digest.SHA384, digest.SHA512} {
		w, err := s.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
		want := algorithm.FromString(content)
		if d, err := w.Commit(want); err != nil || d.Digest != want {
			t.Errorf("Commit: %v, %v", d, err)
		}
		if got, err := s.ReadBlob(want, 100); err != nil || string(got) != content {
			t.Errorf("ReadBlob: %q, %v", got, err)
		}
	}
	wantNoProblems(t, s)
}

func TestCommitRefusesWrongContent(t *testing.T) {
	s := newStore(t)
	for _, want := range []digest.Digest{
		digest.FromString("other"), digest.SHA512.FromString("other"), "sha256:../../../x", "md5:d41d8cd98f00b204e9800998ecf8427e", "x",
	} {
		w, err := s.NewBlob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "content"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(want); err == nil {
			t.Errorf("committed content as %s", want)
		}
		w.Abort()
	}
	for b, err := range s.Blobs() {
		t.Errorf("kept %v (%v)", b, err)
	}
	if entries, _ := os.ReadDir(s.session.Name()); len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
}

func TestHostileDigests(t *testing.T) {
	s := newStore(t)
	outside := filepath.Join(s.Root(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{
		"", "sha256:", "sha256:../../secret", "../../secret", "sha256:" + digest.Digest(strings.Repeat("A", 64)),
		"sha256:" + digest.Digest(strings.Repeat("../", 21)+"x"), "..:" + digest.Digest(strings.Repeat("a", 64)),
	} {
		if _, err := s.OpenBlob(d); err == nil {
			t.Errorf("opened blob %q", d)
		}
		if _, ok := s.HasBlob(d); ok {
			t.Errorf("has blob %q", d)
		}
		if _, err := s.Layer(d); err == nil {
			t.Errorf("read layer %q", d)
		}
		if _, err := s.Snapshot(d); err == nil {
			t.Errorf("found snapshot %q", d)
		}
	}
}

func TestBlobThatIsNoFile(t *testing.T) {
	s := newStore(t)
	d := digest.FromString("secret")
	path, err := s.blobPath(d)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(target, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func() error{
		"symlink":   func() error { return os.Symlink(target, path) },
		"fifo":      func() error { return syscall.Mkfifo(path, 0o600) },
		"directory": func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if r, err := s.OpenBlob(d); err == nil {
			r.Close()
			t.Errorf("opened a %s", name)
		}
		if _, ok := s.HasBlob(d); ok {
			t.Errorf("has a %s", name)
		}
		if len(s.Check(t.Context(), false)) == 0 {
			t.Errorf("check did not see a %s", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// Every bit of a blob is turned over in turn: never is the content taken for whole, and the blob is gone afterwards, so that it
// will be fetched again.
func TestFlippedBits(t *testing.T) {
	s := newStore(t)
	content := "twelve bytes"
	d := putBlob(t, s, content)
	path, err := s.blobPath(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(content) * 8 {
		damaged := []byte(content)
		damaged[bit/8] ^= 1 << (bit % 8)
		overwrite(t, path, damaged)
		if len(s.Check(t.Context(), true)) == 0 {
			t.Fatalf("check did not see bit %d", bit)
		}
		if _, err := s.ReadBlob(d.Digest, 100); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d: %v", bit, err)
		}
		if _, ok := s.HasBlob(d.Digest); ok {
			t.Fatalf("bit %d: the damaged blob is still held", bit)
		}
		putBlob(t, s, content)
	}
	for _, damaged := range []string{"", content[:5], content + "x"} {
		overwrite(t, path, []byte(damaged))
		// Writing a blob again repairs it even before anyone has noticed.
		putBlob(t, s, content)
		if got, err := s.ReadBlob(d.Digest, 100); err != nil || string(got) != content {
			t.Fatalf("after repair: %q, %v", got, err)
		}
	}
	wantNoProblems(t, s)
}

func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSealedDocumentsDetectDamage(t *testing.T) {
	s := newStore(t)
	d := putBlob(t, s, "{}")
	l := layer.Layer{DiffID: digest.FromString("layer"), Descriptor: d}
	if err := errors.Join(s.SetRef("name", d), s.PutRecord("cache", "key", []byte("document")), s.PutLayer(l, nil)); err != nil {
		t.Fatal(err)
	}
	layerPath, _ := s.layerPath(l.DiffID)
	recordPath, _ := s.recordPath("cache", "key")
	reads := map[string]func() error{
		layerPath:                   func() error { _, err := s.Layer(l.DiffID); return err },
		recordPath:                  func() error { _, err := s.Record("cache", "key"); return err },
		s.path(refsDir, "name"):     func() error { _, err := s.Ref("name"); return err },
		layerPath + indexSuffix:     func() error { _, err := s.LayerIndex(l.DiffID); return err },
		s.path(recordsDir, "other"): func() error { return fs.ErrNotExist },
	}
	for path, read := range reads {
		whole, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			if !errors.Is(read(), fs.ErrNotExist) {
				t.Errorf("%s: %v", path, read())
			}
			continue
		}
		for i := range whole {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 0x20
			overwrite(t, path, damaged)
			if err := read(); !errors.Is(err, ErrCorrupt) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: byte %d changed: %v", path, i, err)
			}
		}
		for n := range whole {
			overwrite(t, path, whole[:n])
			if err := read(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s cut to %d: %v", path, n, err)
			}
		}
		if len(s.Check(t.Context(), false)) == 0 {
			t.Errorf("%s: check did not see the damage", path)
		}
		overwrite(t, path, whole)
	}
	wantNoProblems(t, s)
}

func TestLayers(t *testing.T) {
	s := newStore(t)
	id := digest.FromString("tar")
	held := putBlob(t, s, "gzip")
	gone := ocispec.Descriptor{Digest: digest.FromString("zstd"), Size: 4}
	if _, err := s.Layer(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown layer: %v", err)
	}
	steps := []struct{ put, want layer.Layer }{
		{layer.Layer{DiffID: id, Descriptor: gone, Origin: "a/b"}, layer.Layer{DiffID: id, Descriptor: gone, Origin: "a/b"}},
		{layer.Layer{DiffID: id, Descriptor: gone}, layer.Layer{DiffID: id, Descriptor: gone, Origin: "a/b"}},
		{layer.Layer{DiffID: id}, layer.Layer{DiffID: id, Descriptor: gone, Origin: "a/b"}},
		{layer.Layer{DiffID: id, Descriptor: held}, layer.Layer{DiffID: id, Descriptor: held}},
		{layer.Layer{DiffID: id, Descriptor: gone, Origin: "c/d"}, layer.Layer{DiffID: id, Descriptor: held}},
		{layer.Layer{DiffID: id, Descriptor: held, Origin: "e/f"}, layer.Layer{DiffID: id, Descriptor: held, Origin: "e/f"}},
	}
	for i, step := range steps {
		if err := s.PutLayer(step.put, nil); err != nil {
			t.Fatal(err)
		}
		got, err := s.Layer(id)
		if err != nil || got.Descriptor.Digest != step.want.Descriptor.Digest || got.Origin != step.want.Origin {
			t.Errorf("step %d: %+v, %v", i, got, err)
		}
	}
	if err := s.PutLayer(layer.Layer{DiffID: "sha256:../x"}, nil); err == nil {
		t.Error("put a layer with a hostile DiffID")
	}
}

func TestRefNames(t *testing.T) {
	s := newStore(t)
	d := putBlob(t, s, "{}")
	names := []string{
		"localhost/app:v1", ".", "..", "../../x", "a/../b", "a%2Fb", "a/b", "a", "A", "%", "~", "\x00", "\xff\xfe", "\n", " ", "ü",
		strings.Repeat("x", 5000), strings.Repeat("x", 5001), strings.Repeat("/", 100), strings.Repeat("é", 300), ".hidden", "x~" + hashName("x"),
	}
	for _, name := range names {
		if err := s.SetRef(name, d); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got, err := s.Ref(name); err != nil || got.Digest != d.Digest {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	refs, err := s.Refs()
	if err != nil || len(refs) != len(names) {
		t.Errorf("%d refs of %d names, %v", len(refs), len(names), err)
	}
	wantNoProblems(t, s)
	for _, name := range names {
		if _, ok := refs[name]; !ok {
			t.Errorf("%q is not listed", name)
		}
		if err := s.DeleteRef(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := s.Ref(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q after removal: %v", name, err)
		}
	}
	if err := s.DeleteRef("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removing a missing ref: %v", err)
	}
	if err := s.SetRef("", d); err == nil {
		t.Error("set a ref without a name")
	}
	if err := s.SetRef("dangling", ocispec.Descriptor{Digest: digest.FromString("nothing")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("set a ref to nothing: %v", err)
	}
}

func TestRecords(t *testing.T) {
	s := newStore(t)
	for _, key := range []string{"", "a", "../../x", "\x00\xff", strings.Repeat("k", 10_000)} {
		if _, err := s.Record("cache", key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q before: %v", key, err)
		}
		for _, data := range []string{"first" + key, "", "second" + key} {
			if err := s.PutRecord("cache", key, []byte(data)); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Record("cache", key); err != nil || string(got) != data {
				t.Errorf("%q: %q, %v", key, got, err)
			}
		}
	}
	if err := s.DeleteRecord("cache", "a"); err != nil {
		t.Error(err)
	}
	if _, err := s.Record("cache", "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
	for _, bucket := range []string{"", "..", "a/b", "A", "."} {
		if err := s.PutRecord(bucket, "k", nil); err == nil {
			t.Errorf("wrote in bucket %q", bucket)
		}
	}
}

func TestSnapshots(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	s := openStore(t, root)
	id := digest.FromString("chain")
	var dirs []string
	for range 2 {
		dir, err := s.NewSnapshot()
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	if _, err := s.Snapshot(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("snapshot before commit: %v", err)
	}
	// The first one is empty: a plain rename would replace it by the second.
	if err := os.WriteFile(filepath.Join(dirs[1], "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		path, err := s.CommitSnapshot(id, dir)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Snapshot(id); err != nil || got != path {
			t.Errorf("Snapshot: %s, %v; committed %s", got, err, path)
		}
		if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
			t.Errorf("the second replaced the first: %v, %v", entries, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
	if _, err := s.CommitSnapshot(digest.FromString("x"), t.TempDir()); err == nil {
		t.Error("committed a directory that is not the store's")
	}

	// The same directory under another boot's name is not seen, and goes when a store is opened alone.
	old := s.path(snapshotsDir, bootStamp("another boot")+"-00000000")
	if err := os.Rename(s.path(snapshotsDir, s.stamp), old); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Snapshot(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("snapshot of another boot: %v", err)
	}
	second := openStore(t, root)
	second.Close()
	if _, err := os.Stat(old); err != nil {
		t.Errorf("another machine's snapshots were removed under its hands: %v", err)
	}
	s.Close()
	openStore(t, root).Close()
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("snapshots of another boot: %v", err)
	}
}

func TestTempDirs(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	s := openStore(t, root)
	a, err := s.TempDir("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.TempDir("b")
	if err != nil {
		t.Fatal(err)
	}
	// Others come and go without touching what is held.
	openStore(t, root).Close()
	if _, err := os.Stat(a); err != nil {
		t.Error(err)
	}
	if err := s.RemoveTemp(a); err != nil {
		t.Error(err)
	}
	if err := s.RemoveTemp(a); err != nil {
		t.Errorf("removing twice: %v", err)
	}
	for _, dir := range []string{root, s.path(blobsDir), t.TempDir(), b + "/../../..", filepath.Dir(b)} {
		if err := s.RemoveTemp(dir); err == nil {
			t.Errorf("removed %s", dir)
		}
	}
	s.Close()
	if entries, _ := os.ReadDir(filepath.Join(root, tmpDir)); len(entries) > 0 {
		t.Errorf("left after Close: %v", entries)
	}
	if _, err := s.TempDir("c"); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("TempDir after Close: %v", err)
	}
}

func TestCacheDir(t *testing.T) {
	s := newStore(t)
	if dir, err := s.FindCacheDir("../x\x00"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s, %v", dir, err)
	}
	dir := keepCacheDir(t, s, "../x\x00")
	if again, err := s.FindCacheDir("../x\x00"); err != nil || again != dir {
		t.Errorf("%s, %v", again, err)
	}
	if other := keepCacheDir(t, s, "../x"); other == dir {
		t.Errorf("%s is of two keys", other)
	}
	tmp, err := s.TempDir("new-")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.KeepCacheDir("../x", tmp); err == nil {
		t.Error("a directory that is there was replaced")
	}
	if _, err := os.Lstat(tmp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what could not be kept is left: %v", err)
	}
}

// keepCacheDir makes the lasting directory of a key.
func keepCacheDir(t *testing.T, s *Store, key string) string {
	t.Helper()
	tmp, err := s.TempDir("new-")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.KeepCacheDir(key, tmp)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLock(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	// Two stores on one root stand for two processes: their flocks are as separate.
	for name, second := range map[string]*Store{"process": nil, "store": openStore(t, root)} {
		first := openStore(t, root)
		if second == nil {
			second = first
		}
		unlock, err := first.Lock(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := second.Lock(ctx, "n"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: took a lock that is held: %v", name, err)
		}
		cancel()
		other, err := second.Lock(t.Context(), "m")
		if err != nil {
			t.Fatal(err)
		}
		other()
		got := make(chan error)
		go func() {
			unlock, err := second.Lock(t.Context(), "n")
			if err == nil {
				unlock()
			}
			got <- err
		}()
		unlock()
		unlock()
		if err := <-got; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Many take the same lock through two stores: never two at once, and no lock file is left.
func TestLockExcludes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	stores := []*Store{openStore(t, root), openStore(t, root)}
	var wg sync.WaitGroup
	var inside atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				unlock, err := stores[i%2].Lock(t.Context(), "name")
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d hold the lock", n)
				}
				runtime.Gosched()
				inside.Add(-1)
				unlock()
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(filepath.Join(root, locksDir)); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A lock whose holder has died without giving it back is free, and only one of those who come for it gets it, also where the dead one
// held several by one file.
func TestLockOfTheDead(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	stores := []*Store{openStore(t, root), openStore(t, root)}
	for range 50 {
		names := []string{"a", "b"}
		dead := filepath.Join(root, "dead")
		err := os.WriteFile(dead, nil, 0o600)
		for _, name := range names {
			err = errors.Join(err, os.Link(dead, stores[0].path(locksDir, hashName(name))))
		}
		if err = errors.Join(err, os.Remove(dead)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var held [2]atomic.Int32
		for i := range 4 {
			wg.Go(func() {
				unlock, err := stores[i%2].Lock(t.Context(), names[i/2])
				if err != nil {
					t.Error(err)
					return
				}
				if n := held[i/2].Add(1); n != 1 {
					t.Errorf("%d hold the lock %s", n, names[i/2])
				}
				runtime.Gosched()
				held[i/2].Add(-1)
				unlock()
			})
		}
		wg.Wait()
	}
}

// The file that holds a Store's locks goes with it; a lock that was not given back goes with that.
func TestLockOfTheClosed(t *testing.T) {
	root := filepath.Join(t.TempDir(), "store")
	first, second := openStore(t, root), openStore(t, root)
	late, ok, err := first.TryLock("n")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for _, s := range []*Store{first, second} {
		if _, ok, err := s.TryLock("n"); err != nil || ok {
			t.Errorf("a held lock was given: %v, %v", ok, err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	unlock, ok, err := second.TryLock("n")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	late()
	if _, ok, err := openStore(t, root).TryLock("n"); err != nil || ok {
		t.Errorf("what was given back too late was another's: %v, %v", ok, err)
	}
	unlock()
}

// TestLockWithoutLinks: where the file system gives a file one name only, locks still exclude, and are given back.
func TestLockWithoutLinks(t *testing.T) {
	root := t.TempDir()
	first, second := openStore(t, root), openStore(t, root)
	for _, s := range []*Store{first, second} {
		linkless(t, s)
	}
	for range 2 {
		unlock, ok, err := first.TryLock("n")
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if _, ok, err := second.TryLock("n"); err != nil || ok {
			t.Errorf("locked twice: %v, %v", ok, err)
		}
		unlock()
		unlock, ok, err = second.TryLock("n")
		if err != nil || !ok {
			t.Fatalf("not given back: %v, %v", ok, err)
		}
		unlock()
	}
	if left, err := os.ReadDir(filepath.Join(root, locksDir)); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// linkless gives a store a locked file that cannot have a name in the store, since it is on another file system.
func linkless(t *testing.T, s *Store) {
	t.Helper()
	f, err := os.CreateTemp("/dev/shm", "cairn-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if err := os.Link(f.Name(), s.path(locksDir, "link")); !errors.Is(err, unix.EXDEV) {
		t.Fatalf("a link on another file system: %v", err)
	}
	s.locked = f // the Store closes it
}
