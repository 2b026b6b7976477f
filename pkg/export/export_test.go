package export_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/export/exporttest"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/registry"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func parse(t *testing.T, s string) export.Output {
	t.Helper()
	o, err := export.ParseOutput(s)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func do(t *testing.T, f *exporttest.Fixture, out string) export.Result {
	t.Helper()
	r, err := export.Export(context.Background(), parse(t, out), f.Request, f.Deps)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestSuite(t *testing.T) {
	for _, s := range []string{"type=oci", "type=oci,oci-mediatypes=false", "type=docker", "type=tar", "type=tar,platform-split=true",
		"type=oci,tar=false", "type=docker,tar=false", "type=local"} {
		t.Run(s, func(t *testing.T) {
			exporttest.Suite(t, func(dest string) export.Output {
				o := parse(t, s+",dest=x")
				o.Dest = dest
				return o
			})
		})
	}
}

func TestOCI(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d platforms", n), func(t *testing.T) {
			f := exporttest.New(t)
			if n == 2 {
				f.AddPlatform(t, "arm64")
			}
			f.Request.Names = []string{"example.com/team/app:v1", "other"}
			dir := t.TempDir()
			r := do(t, f, "type=oci,dest="+dir+"/x.tar")
			command(t, "mkdir", dir+"/layout")
			command(t, "tar", "-C", dir+"/layout", "-xf", dir+"/x.tar")
			ix := exporttest.CheckLayout(t, os.DirFS(dir+"/layout"))
			if len(ix.Manifests) != 2 || ix.Manifests[0].Digest != r.Set.Descriptor.Digest {
				t.Fatalf("index %+v", ix)
			}
			want := map[string]string{
				"io.containerd.image.name": "example.com/team/app:v1", "org.opencontainers.image.ref.name": "v1",
				"org.opencontainers.image.created": "2023-11-14T22:13:21Z",
			}
			for k, v := range want {
				if got := ix.Manifests[0].Annotations[k]; got != v {
					t.Errorf("annotation %s is %q, want %q", k, got, v)
				}
			}
			if got := ix.Manifests[1].Annotations["io.containerd.image.name"]; got != "docker.io/library/other:latest" {
				t.Errorf("second name %q", got)
			}
			var seen ocispec.Image
			if err := json.Unmarshal([]byte(command(t, "skopeo", "inspect", "--config", "oci-archive:"+dir+"/x.tar:v1")), &seen); err != nil {
				t.Fatal(err)
			}
			if len(seen.RootFS.DiffIDs) != 3 || seen.Config.Cmd[0] != "/bin/sh" {
				t.Errorf("skopeo sees %+v", seen)
			}
			if n > 1 {
				command(t, "skopeo", "copy", "--override-arch", "arm64", "oci-archive:"+dir+"/x.tar:v1", "dir:"+dir+"/copy")
				return // umoci knows no platforms
			}
			command(t, "umoci", "unpack", "--image", dir+"/layout:latest", dir+"/bundle")
			for name, want := range map[string]bool{"etc/removed": false, "hidden/below": false, "hidden/new": true, "late": true, "bin/sh": true} {
				if _, err := os.Lstat(dir + "/bundle/rootfs/" + name); (err == nil) != want {
					t.Errorf("umoci unpacked %s: %v", name, err)
				}
			}
		})
	}
}

func TestOCIDir(t *testing.T) {
	f := exporttest.New(t)
	dir := filepath.Join(t.TempDir(), "layout")
	do(t, f, "type=oci,tar=false,name=app:v1,dest="+dir)
	do(t, f, "type=oci,tar=false,name=app:v2,annotation.a=b,dest="+dir)
	do(t, f, "type=oci,tar=false,name=app:v1,annotation.c=d,dest="+dir)
	ix := exporttest.CheckLayout(t, os.DirFS(dir))
	var tags []string
	for _, d := range ix.Manifests {
		tags = append(tags, d.Annotations["org.opencontainers.image.ref.name"])
	}
	if !slices.Equal(tags, []string{"v2", "v1"}) {
		t.Errorf("tags %v", tags)
	}
	// A damaged blob is written anew.
	blob := dir + "/blobs/sha256/" + f.Request.Images[0].Base[0].Descriptor.Digest.Encoded()
	if err := os.WriteFile(blob, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, f, "type=oci,tar=false,name=app:v1,dest="+dir)
	exporttest.CheckLayout(t, os.DirFS(dir))
	// What is no index is not overwritten.
	if err := os.WriteFile(dir+"/index.json", []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := export.Export(context.Background(), parse(t, "type=oci,tar=false,dest="+dir), f.Request, f.Deps); err == nil {
		t.Error("an index.json that is none was replaced")
	}
}

// The blobs of a layout may be links to elsewhere; nothing is written there.
func TestOCIDirSymlinks(t *testing.T) {
	f := exporttest.New(t)
	dir, canary := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(dir+"/blobs", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(canary, dir+"/blobs/sha256"); err != nil {
		t.Fatal(err)
	}
	if _, err := export.Export(context.Background(), parse(t, "type=oci,tar=false,dest="+dir), f.Request, f.Deps); err == nil {
		t.Error("a layout whose blobs are elsewhere was accepted")
	}
	if entries, err := os.ReadDir(canary); err != nil || len(entries) != 0 {
		t.Errorf("SOMETHING WAS WRITTEN OUTSIDE OF DEST: %v %v", entries, err)
	}
}

func TestDocker(t *testing.T) {
	f := exporttest.New(t)
	dir := t.TempDir()
	f.Request.Names = []string{"example.com/app:v1", "app"}
	r := do(t, f, "type=docker,dest="+dir+"/x.tar")
	var got []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal([]byte(command(t, "tar", "-xOf", dir+"/x.tar", "manifest.json")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].RepoTags[0] != "app:latest" || got[1].RepoTags[0] != "example.com/app:v1" || len(got[0].Layers) != 3 ||
		got[0].Config != r.Set.ConfigDigest().String() {
		t.Errorf("manifest.json %+v", got)
	}
	if insp := command(t, "skopeo", "inspect", "--config", "docker-archive:"+dir+"/x.tar:app:latest"); !strings.Contains(insp, "/bin/sh") {
		t.Errorf("skopeo sees %s", insp)
	}
	if os.Geteuid() == 0 {
		podmanLoad(t, dir, r.Set.ConfigDigest())
	}
}

func podmanLoad(t *testing.T, dir string, id digest.Digest) {
	podman := []string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}
	out := command(t, "podman", append(podman, "load", "-i", dir+"/x.tar")...)
	if !strings.Contains(out, "example.com/app:v1") {
		t.Errorf("podman load says %s", out)
	}
	got := command(t, "podman", append(podman, "image", "inspect", "--format", "{{.Id}}", "example.com/app:v1")...)
	if strings.TrimSpace(got) != id.Encoded() {
		t.Errorf("podman has image %s, want %s", got, id)
	}
	command(t, "podman", append(podman, "rmi", "-af")...)
}

// Without a name docker load shows the ID.
func TestDockerWithoutName(t *testing.T) {
	f := exporttest.New(t)
	dest := t.TempDir() + "/x.tar"
	do(t, f, "type=docker,dest="+dest)
	if got := command(t, "tar", "-xOf", dest, "manifest.json"); !strings.Contains(got, `"RepoTags":null`) {
		t.Errorf("manifest.json %s", got)
	}
}

func TestTar(t *testing.T) {
	f := exporttest.New(t)
	dest := t.TempDir() + "/x.tar"
	do(t, f, "type=tar,dest="+dest)
	file, err := os.Open(dest)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := map[string]*tar.Header{}
	for r := tar.NewReader(file); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
	}
	for _, name := range []string{"etc/removed", "hidden/below", "hidden/.wh..wh..opq"} {
		if got[name] != nil {
			t.Errorf("%s is in the tarball", name)
		}
	}
	if h := got["bin/sh"]; h == nil || h.Typeflag != tar.TypeLink || h.Linkname != "bin/busy" {
		t.Errorf("bin/sh is %+v", h)
	}
	if h := got["home/user/file"]; h == nil || h.Uid != 1000 || h.Gid != 100 || h.Mode != 0o640 {
		t.Errorf("home/user/file is %+v", h)
	}
	if h := got["app/attr"]; h == nil || h.PAXRecords["SCHILY.xattr.user.note"] != "kept\x00raw" {
		t.Errorf("app/attr is %+v", h)
	}
	if h := got["bin/busy"]; h == nil || h.Mode != 0o4755 {
		t.Errorf("bin/busy is %+v", h)
	}
}

func TestTarStdout(t *testing.T) {
	f := exporttest.New(t)
	f.AddPlatform(t, "arm64")
	epoch := time.Unix(1234, 0)
	f.Request.Epoch = &epoch
	var w bytes.Buffer
	f.Deps.Stdout = &w
	do(t, f, "-")
	n := 0
	for r := tar.NewReader(&w); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(h.Name, "linux_amd64/") && !strings.HasPrefix(h.Name, "linux_arm64/") || h.ModTime.Unix() != 1234 {
			t.Errorf("entry %s, time %v", h.Name, h.ModTime)
		}
		if h.Typeflag == tar.TypeLink && !strings.HasPrefix(h.Linkname, "linux_") {
			t.Errorf("a link to %s", h.Linkname)
		}
	}
	if n < 30 {
		t.Errorf("%d entries", n)
	}
}

func TestLocal(t *testing.T) {
	f := exporttest.New(t)
	top := t.TempDir()
	dest, canary := top+"/dest", top+"/canary"
	for _, d := range []string{dest + "/keep", dest + "/late/was/a/directory", canary} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// What is in the way: symlinks out of dest where the image has a directory and where it has a file.
	for name, to := range map[string]string{"bin": canary, "etc": "../canary"} {
		if err := os.Symlink(to, dest+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(canary+"/passwd", []byte("canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dest+"/app", 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(canary+"/passwd", dest+"/app/attr"); err != nil {
		t.Fatal(err)
	}
	do(t, f, dest)
	do(t, f, dest) // again, over itself

	if entries, err := os.ReadDir(canary); err != nil || len(entries) != 1 {
		t.Errorf("SOMETHING WAS WRITTEN OUTSIDE OF DEST: %v %v", entries, err)
	}
	if data, err := os.ReadFile(canary + "/passwd"); err != nil || string(data) != "canary" {
		t.Errorf("A FILE OUTSIDE OF DEST WAS CHANGED: %q %v", data, err)
	}
	if _, err := os.Stat(dest + "/keep"); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(dest + "/late"); err != nil || string(data) != "made later than the epoch" {
		t.Errorf("late: %q %v", data, err)
	}
	for name, mode := range map[string]os.FileMode{
		"bin/busy": 0o755 | os.ModeSetuid, "home/user": 0o700 | os.ModeDir, "hidden": 0o750 | os.ModeDir, "usr/lib": 0o555 | os.ModeDir,
		"app/fifo": 0o600 | os.ModeNamedPipe, "usr/lib/lib.so": 0o444, "etc/passwd": 0o644,
	} {
		fi, err := os.Lstat(dest + "/" + name)
		if err != nil {
			t.Error(err)
			continue
		}
		if fi.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, fi.Mode(), mode)
		}
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Lstat(dest+"/bin/busy", &a), unix.Lstat(dest+"/bin/sh", &b)); err != nil {
		t.Fatal(err)
	}
	if a.Ino != b.Ino || a.Nlink != 2 || a.Mtim.Sec != 2000 {
		t.Errorf("bin/busy %+v, bin/sh %+v", a, b)
	}
	if to, err := os.Readlink(dest + "/outside"); err != nil || to != "/etc/../../../../etc/hostname" {
		t.Errorf("outside: %q %v", to, err)
	}
	if err := unix.Lstat(dest+"/outside", &a); err != nil || a.Mtim.Sec != 3000 {
		t.Errorf("outside: %+v %v", a, err)
	}
	buf := make([]byte, 64)
	if n, err := unix.Lgetxattr(dest+"/app/attr", "user.note", buf); err != nil || string(buf[:n]) != "kept\x00raw" {
		t.Errorf("user.note: %q %v", buf[:max(n, 0)], err)
	}
	left := command(t, "find", dest, "-name", ".cairn-*")
	if left != "" {
		t.Errorf("left behind: %s", left)
	}
}

func TestLocalPlatforms(t *testing.T) {
	f := exporttest.New(t)
	f.AddPlatform(t, "arm64")
	dest := t.TempDir()
	do(t, f, "type=local,dest="+dest)
	for _, name := range []string{"linux_amd64/bin/sh", "linux_arm64/zz-arm64"} {
		if _, err := os.Stat(dest + "/" + name); err != nil {
			t.Error(err)
		}
	}
	if _, err := export.Export(context.Background(), parse(t, "type=local,platform-split=false,dest="+dest), f.Request, f.Deps); err == nil {
		t.Error("two platforms in one directory")
	}
}

// pushes is a registry that writes down what it is asked for, and checks that manifests come after what they name.
type pushes struct {
	mu     sync.Mutex
	blobs  map[string]map[digest.Digest]bool
	opened int
	from   map[digest.Digest][]string
	refs   map[string][]byte
	count  int
}

func newPushes() *pushes {
	return &pushes{blobs: map[string]map[digest.Digest]bool{}, from: map[digest.Digest][]string{}, refs: map[string][]byte{}}
}

func (p *pushes) PushBlob(_ context.Context, repo string, d ocispec.Descriptor, up registry.Upload) error {
	r, err := up.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if digest.FromBytes(data) != d.Digest || int64(len(data)) != d.Size {
		return fmt.Errorf("blob %s has other content", d.Digest)
	}
	up.Progress(d.Size)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if p.blobs[repo] == nil {
		p.blobs[repo] = map[digest.Digest]bool{}
	}
	if p.blobs[repo][d.Digest] {
		return fmt.Errorf("blob %s was pushed twice to %s", d.Digest, repo)
	}
	p.blobs[repo][d.Digest] = true
	p.from[d.Digest] = append(p.from[d.Digest], up.MountFrom...)
	return nil
}

func (p *pushes) PushManifest(_ context.Context, ref, mediaType string, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	repo, _, _ := strings.Cut(ref, "@")
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		repo = repo[:i]
	}
	var m struct {
		MediaType string
		Config    ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	if m.MediaType != mediaType {
		return fmt.Errorf("%s is pushed as %s", m.MediaType, mediaType)
	}
	for _, d := range m.Manifests {
		if p.refs[repo+"@"+d.Digest.String()] == nil {
			return fmt.Errorf("%s: manifest %s is not there", ref, d.Digest)
		}
	}
	for _, d := range append(m.Layers, m.Config) {
		if d.Digest != "" && !p.blobs[repo][d.Digest] {
			return fmt.Errorf("%s: blob %s is not there", ref, d.Digest)
		}
	}
	p.refs[ref] = body
	return nil
}

func TestPush(t *testing.T) {
	f := exporttest.New(t)
	f.AddPlatform(t, "arm64")
	f.Request.Images[0].Base[0].Origin = "example.com/library/base"
	p := newPushes()
	f.Deps.Registry = p
	f.Request.Names = []string{"example.com/a:v1", "example.com/a:v2", "example.com/b:v1"}
	r := do(t, f, "type=registry,name=example.com/a:v1")
	for _, ref := range f.Request.Names {
		if digest.FromBytes(p.refs[ref]) != r.Set.Descriptor.Digest {
			t.Errorf("%s has another manifest", ref)
		}
	}
	if len(p.refs) != 3+2*2 {
		t.Errorf("%d manifests", len(p.refs))
	}
	// 2 base layers, 2 built layers that both platforms share, 2 configs; in 2 repositories.
	if p.count != 2*6 {
		t.Errorf("%d blobs were pushed", p.count)
	}
	if got := p.from[f.Request.Images[0].Base[0].Descriptor.Digest]; !slices.Equal(got, []string{"example.com/library/base", "example.com/library/base", "example.com/a"}) {
		t.Errorf("the base was mounted from %v", got)
	}
	l, err := f.Store.Layer(f.Request.Images[0].Layers[0].DiffID)
	if err != nil || l.Origin == "" {
		t.Errorf("a pushed layer has origin %q, %v", l.Origin, err)
	}
	m := r.Metadata()
	if m["containerimage.digest"] != r.Set.Descriptor.Digest.String() || m["containerimage.config.digest"] != nil ||
		m["image.name"] != "example.com/a:v1,example.com/a:v2,example.com/b:v1" || r.ImageID() != r.Set.Descriptor.Digest {
		t.Errorf("metadata %v", m)
	}
}

func TestPushByDigest(t *testing.T) {
	f := exporttest.New(t)
	p := newPushes()
	f.Deps.Registry = p
	r := do(t, f, "type=image,push=true,push-by-digest=true,name-canonical=true,name=example.com/a")
	if len(p.refs) != 1 || p.refs["example.com/a@"+r.Set.Descriptor.Digest.String()] == nil {
		t.Errorf("pushed %d references", len(p.refs))
	}
	entries, err := image.NewLocal(f.Store).List()
	if err != nil || len(entries) != 2 {
		t.Errorf("local names %v %v", entries, err)
	}
}

func TestImage(t *testing.T) {
	f := exporttest.New(t)
	r := do(t, f, "type=image,name=app:v1")
	local := image.NewLocal(f.Store)
	for _, ref := range []string{"app:v1", "docker.io/library/app:v1", r.Set.ConfigDigest().String(), r.Set.Descriptor.Digest.Encoded()[:12]} {
		set, err := local.Get(ref)
		if err != nil {
			t.Errorf("Get(%q): %v", ref, err)
			continue
		}
		if !bytes.Equal(set.Images[0].Config, r.Set.Images[0].Config) || len(set.Images[0].Layers) != 3 || set.Descriptor.Digest != r.Set.Descriptor.Digest {
			t.Errorf("Get(%q) = %+v", ref, set)
		}
	}
	if r.ImageID() != r.Set.ConfigDigest() {
		t.Errorf("image ID %s", r.ImageID())
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/real", []byte("old"), 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := export.WriteFile(dir+"/link", []byte("new")); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Lstat(dir + "/real")
	if err != nil || fi.Mode() != 0o604 {
		t.Errorf("mode %v %v", fi.Mode(), err)
	}
	if data, err := os.ReadFile(dir + "/real"); err != nil || string(data) != "new" {
		t.Errorf("%q %v", data, err)
	}
	if to, err := os.Readlink(dir + "/link"); err != nil || to != "real" {
		t.Errorf("the link is gone: %v", err)
	}
	if err := export.WriteFile(dir, nil); err == nil {
		t.Error("a directory was replaced")
	}
	if err := export.WriteFile("/dev/null", []byte("x")); err != nil {
		t.Error(err)
	}
}

// The real client against a real registry, skopeo as the judge.
func TestPushForReal(t *testing.T) {
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	c, err := registry.New(registry.Options{InsecureHosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := exporttest.New(t)
	f.AddPlatform(t, "arm64")
	f.Deps.Registry = c
	r := do(t, f, fmt.Sprintf(`type=registry,"name=%s/a/b:v1,%s/a/b:v2,%s/c"`, host, host, host))
	for _, name := range []string{"a/b:v1", "a/b:v2", "c"} {
		got := command(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+host+"/"+name)
		if digest.FromString(got) != r.Set.Descriptor.Digest {
			t.Errorf("%s has another manifest", name)
		}
	}
	command(t, "skopeo", "copy", "--all", "--src-tls-verify=false", "docker://"+host+"/c", "dir:"+t.TempDir())
}
