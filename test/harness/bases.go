package harness

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Busybox publishes a base image with Debian's static busybox at /bin/sh in the registry and returns its name.
func (r *Registry) Busybox(t testing.TB) string {
	t.Helper()
	return r.publish(t, "busybox", busyboxTar)
}

// Debian publishes a Debian base image of this machine's release (mmdebstrap, minbase) in the registry and returns its name. Its package sources are
// this machine's.
func (r *Registry) Debian(t testing.TB) string {
	t.Helper()
	return r.publish(t, "debian", debianTar)
}

// BusyboxArm is Busybox for arm64, whatever this machine is. The program comes out of Debian's package.
func (r *Registry) BusyboxArm(t testing.TB) string {
	t.Helper()
	return r.publishFor(t, "busybox-arm64", "arm64", func(t testing.TB, file string) {
		dir := t.TempDir()
		args := []string{"mmdebstrap", "--variant=extract", "--arch=arm64", "--include=busybox-static", "--quiet"}
		if os.Getuid() != 0 {
			args = append(args, "--mode=unshare")
		}
		args = append(args, release(t), filepath.Join(dir, "root.tar"))
		Run(t, append(args, debianSources(t)...)...)
		Run(t, "tar", "-C", dir, "-xf", filepath.Join(dir, "root.tar"), "--wildcards", "--transform=s,.*/,,", "*bin/busybox")
		data, err := os.ReadFile(filepath.Join(dir, "busybox"))
		if err != nil {
			t.Fatal(err)
		}
		writeBusyboxTar(t, file, data)
	})
}

// publishing keeps two tests of this process from making the same layout; a locked file keeps those of others from it.
var publishing sync.Mutex

// lock locks a file until the function it returns is called.
func lock(t testing.TB, file string) func() {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}

// publish makes an OCI layout with umoci, once for all runs, and copies it to the registry with skopeo: nothing of cairn's own code has
// a part in the bases that it is tested on.
func (r *Registry) publish(t testing.TB, name string, rootfs func(testing.TB, string)) string {
	t.Helper()
	return r.publishFor(t, name, runtime.GOARCH, rootfs)
}

func (r *Registry) publishFor(t testing.TB, name, arch string, rootfs func(testing.TB, string)) string {
	t.Helper()
	publishing.Lock()
	defer publishing.Unlock()
	layout := filepath.Join(cacheDir(t), "base-"+name)
	defer lock(t, layout+".lock")()
	if _, err := os.Stat(filepath.Join(layout, "index.json")); err != nil {
		tarball := layout + ".tar"
		rootfs(t, tarball)
		temp := layout + ".new"
		_ = os.RemoveAll(temp)
		image := temp + ":latest"
		Run(t, "umoci", "init", "--layout", temp)
		Run(t, "umoci", "new", "--image", image)
		Run(t, "umoci", "raw", "add-layer", "--image", image, tarball)
		Run(t, "umoci", "config", "--image", image, "--architecture", arch, "--os", "linux",
			"--config.env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--config.cmd", "sh")
		if err := os.Rename(temp, layout); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(tarball)
	}
	ref := r.Name("base/" + name + ":latest")
	args := append([]string{"skopeo", "copy", "-q"}, r.Skopeo("dest")...)
	Run(t, append(args, "oci:"+layout+":latest", "docker://"+ref)...)
	return ref
}

// debianTar writes a root filesystem of the release that this machine runs.
func debianTar(t testing.TB, file string) {
	t.Helper()
	args := []string{"mmdebstrap", "--variant=minbase", "--quiet", "--format=tar"}
	if os.Getuid() != 0 {
		args = append(args, "--mode=unshare")
	}
	args = append(args, release(t), file)
	Run(t, append(args, debianSources(t)...)...)
}

// debianSources are the files in /etc/apt that name Debian's own archive; there may be others' beside them.
func debianSources(t testing.TB) []string {
	t.Helper()
	var out []string
	lists, _ := filepath.Glob("/etc/apt/sources.list.d/*.sources")
	for _, f := range append(lists, "/etc/apt/sources.list") {
		data, err := os.ReadFile(f)
		if err == nil && bytes.Contains(data, []byte("debian-archive-keyring")) || bytes.Contains(data, []byte("deb.debian.org")) {
			out = append(out, f)
		}
	}
	return out
}

// release is the code name of this machine's Debian.
func release(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if name, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	t.Fatal("/etc/os-release names no release")
	return ""
}

// busyboxTar writes a root filesystem with one program and its names.
func busyboxTar(t testing.TB, file string) {
	t.Helper()
	program, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	writeBusyboxTar(t, file, data)
}

// writeBusyboxTar writes a root filesystem with busybox under all of its names.
func writeBusyboxTar(t testing.TB, file string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	dir := func(name string, mode int64) {
		add(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
	}
	text := func(name, content string) {
		add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content))
	}
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var"} {
		dir(d, 0o755)
	}
	dir("root", 0o700)
	dir("tmp", 0o1777)
	text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nann:x:1000:1000::/home:/bin/sh\n")
	text("etc/group", "root:x:0:\ndaemon:x:1:\nann:x:1000:\nstaff:x:50:ann\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, data)
	for _, applet := range strings.Fields(Run(t, "busybox", "--list")) {
		if applet != "busybox" {
			add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, nil)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(fmt.Errorf("writing %s: %w", file, err))
	}
}
