package tiers

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairn-build/cairn/test/harness"
)

// stage has what the tiers have in common.
type stage struct {
	t testing.TB
	// dir is where everybody can get to, source has the Dockerfiles there; base is the image that is built on.
	dir, source, base string
	// images are the root filesystems of containers: a Debian, and the same with its ids shifted.
	images [2]string
}

func newStage(t testing.TB) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "cairn-tiers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &stage{t: t, dir: dir, base: harness.StartRegistry(t, harness.RegistryOptions{}).Debian(t)}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// A directory with nothing mounted below: only such a one may be shown in a user namespace.
	s.source = filepath.Join(dir, "src")
	if err := os.Mkdir(s.source, 0o755); err != nil {
		t.Fatal(err)
	}
	harness.Run(t, "cp", "-r", "install", "owners", s.source)
	layout := filepath.Join(dir, "layout") + ":latest"
	harness.Run(t, "skopeo", "copy", "-q", "--src-tls-verify=false", "docker://"+s.base, "oci:"+layout)
	s.images = [2]string{filepath.Join(dir, "image"), filepath.Join(dir, "shifted")}
	harness.Run(t, "umoci", "raw", "unpack", "--image", layout, s.images[0])
	if err := s.furnish(s.images[0]); err != nil {
		t.Fatal(err)
	}
	harness.Run(t, "cp", "-a", s.images[0], s.images[1])
	if err := shiftIDs(s.images[1]); err != nil {
		t.Fatal(err)
	}
	return s
}

// furnish makes a base image one of CI: with a user, and with sub-ids and the programs that give them out. Those have file capabilities:
// as setuid root they fail where the bounding set has no CAP_SYS_ADMIN.
func (s *stage) furnish(root string) error {
	harness.WriteFiles(s.t, root, map[string]string{
		"etc/subuid": "user:100000:65536\nroot:100000:65536\n", "etc/subgid": "user:100000:65536\nroot:100000:65536\n",
		"home/user/": "", "vol/": "", "src/": "", "usr/local/bin/cairn": "", "etc/resolv.conf": "", "etc/hosts": "",
	})
	for name, line := range map[string]string{"passwd": "user:x:1000:1000::/home/user:/bin/sh\n", "group": "user:x:1000:\n"} {
		f, err := os.OpenFile(filepath.Join(root, "etc", name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(line)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	for name, bit := range map[string]byte{"newuidmap": unix.CAP_SETUID, "newgidmap": unix.CAP_SETGID} {
		to := filepath.Join(root, "usr/bin", name)
		harness.Run(s.t, "install", "-m", "755", "/usr/bin/"+name, to)
		// capability.h: revision 2 and "effective", then permitted and inheritable, twice.
		value := make([]byte, 20)
		value[0], value[3], value[4] = 1, 2, 1<<bit
		if err := unix.Setxattr(to, "security.capability", value, 0); err != nil {
			return err
		}
	}
	return os.Chown(filepath.Join(root, "home/user"), 1000, 1000)
}

// shiftIDs gives a tree to the ids of a container with hostUsers: false.
func shiftIDs(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if st.Uid >= shift { // a further name of one that is done
			return nil
		}
		err = os.Lchown(path, int(st.Uid)+shift, int(st.Gid)+shift)
		if err == nil && d.Type() != fs.ModeSymlink {
			err = unix.Chmod(path, st.Mode&0o7777) // chown takes setuid away
		}
		return err
	})
}

// visit is a stay in a tier.
type visit struct {
	*stage
	tier
	// dir holds it; volume is the directory that outlives the container, and there to be found at place. source is where the Dockerfiles are there.
	dir, volume, place, source string
	mounted                    bool
}

func (s *stage) visit(r tier) *visit {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.dir, r.name+"-")
	v := &visit{stage: s, tier: r, dir: dir, volume: filepath.Join(dir, "volume")}
	v.place, v.source = v.volume, s.source
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.Mkdir(v.volume, 0o777), os.Chmod(v.volume, 0o777)); err != nil {
		s.t.Fatal(err)
	}
	if r.host {
		return v
	}
	v.place, v.source = volume, "/src"
	image := s.images[0]
	if r.shifted {
		image = s.images[1]
	}
	names := []string{filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "rootfs")}
	for _, name := range names {
		if err := errors.Join(os.Mkdir(name, 0o755), os.Chmod(name, 0o755)); err != nil {
			s.t.Fatal(err)
		}
	}
	if r.shifted {
		if err := errors.Join(os.Chown(names[0], shift, shift), os.Chown(v.volume, shift, shift)); err != nil {
			s.t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", image, names[0], names[1])
	if err := unix.Mount("overlay", names[2], "overlay", 0, options); err != nil {
		s.t.Fatalf("mounting the container's root filesystem: %v", err)
	}
	v.mounted = true
	return v
}

// leave removes what was there.
func (v *visit) leave() {
	v.t.Helper()
	var err error
	if v.mounted {
		err = unix.Unmount(filepath.Join(v.dir, "rootfs"), unix.MNT_DETACH)
	}
	if err := errors.Join(err, os.RemoveAll(v.dir)); err != nil {
		v.t.Error(err)
	}
}

// home is the user's home directory, as the platform says it.
func (v *visit) home() string {
	switch {
	case v.host:
		return v.volume
	case v.uid == 0:
		return "/root"
	case v.uid == 1000:
		return "/home/user"
	}
	return "/"
}

// do runs a command in the tier, on the volume.
func (v *visit) do(args ...string) harness.Result {
	v.t.Helper()
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + v.home(), "CI=true", "SOURCE_DATE_EPOCH=1700000000"}
	program := harness.Binary(v.t)
	if v.host {
		env[0] = "PATH=" + filepath.Dir(program) + strings.TrimPrefix(env[0], "PATH=/usr/local/sbin")
		cmd := exec.Command(args[0], args[1:]...)
		if args[0] == "cairn" {
			cmd = exec.Command(program, args[1:]...)
		}
		cmd.Dir, cmd.Env = v.volume, env
		if err := v.become(cmd); err != nil {
			v.t.Fatal(err)
		}
		return harness.Execute(v.t, cmd)
	}
	spec, err := v.config(args, env, map[string]string{
		volume: v.volume, "/src": v.stage.source, "/usr/local/bin/cairn": program, "/etc/resolv.conf": "/etc/resolv.conf", "/etc/hosts": "/etc/hosts"})
	if err != nil {
		v.t.Fatal(err)
	}
	id := "cairn-" + filepath.Base(v.dir)
	spec.Linux.CgroupsPath = "/" + id
	text, err := json.Marshal(spec)
	if err := errors.Join(err, os.WriteFile(filepath.Join(v.dir, "config.json"), text, 0o644)); err != nil {
		v.t.Fatal(err)
	}
	return harness.Try(v.t, "runc", "--root", filepath.Join(v.dir, "runc"), "run", "--bundle", v.dir, id)
}

// built is what came of a Dockerfile: the manifest's digest, and the layers'.
type built struct {
	digest string
	layers []string
}

// build builds the Dockerfile of a directory beside this file.
func (v *visit) build(name string, flags ...string) (built, error) {
	v.t.Helper()
	args := append([]string{"cairn", "build", "--root", v.place + "/state", "--no-cache", "--progress", "plain", "--build-arg", "BASE=" + v.base,
		"-o", "type=oci,dest=" + v.place + "/out.tar,rewrite-timestamp=true"}, flags...)
	if r := v.do(append(args, filepath.Join(v.source, name))...); r.Code != 0 {
		return built{}, fmt.Errorf("%v", r)
	}
	return readImage(filepath.Join(v.volume, "out.tar"))
}

func readImage(archive string) (built, error) {
	f, err := os.Open(archive)
	if err != nil {
		return built{}, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return built{}, err
		}
		if h.Size > 1<<20 {
			continue // a layer
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return built{}, err
		}
	}
	var index v1.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		return built{}, fmt.Errorf("reading the index of %s with %v: %w", archive, maps.Keys(files), err)
	}
	d := index.Manifests[0].Digest
	var manifest v1.Manifest
	if err := json.Unmarshal(files["blobs/sha256/"+d.Encoded()], &manifest); err != nil {
		return built{}, err
	}
	b := built{digest: d.String()}
	for _, l := range manifest.Layers {
		b.layers = append(b.layers, l.Digest.String())
	}
	return b, nil
}
