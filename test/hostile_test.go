package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// TestProgramsOfTheImage is A7: an image brings its own git, tar, decompressors and helpers, and libraries that the C library looks for. They say so when
// they are run on this machine. The build uses everything for which another builder has called a program: archives, users, git.
func TestProgramsOfTheImage(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		mark := h.Path("executed")
		trojan := fmt.Sprintf("#!/bin/sh\necho \"$0 $*\" >> %s; chmod 666 %s\n", mark, mark)
		files := map[string]string{"passwd": "ann:x:1000:1000::/:/bin/sh\n", "nsswitch.conf": "passwd: evil\ngroup: evil\nhosts: evil\n", "f": "x\n"}
		for _, name := range []string{"xz", "unxz", "unpigz", "pigz", "gzip", "zstd", "bzip2", "tar", "git", "ssh", "newuidmap", "newgidmap",
			"docker-credential-evil", "fuse-overlayfs", "getent", "ldconfig", "mount", "umount", "tini", "runc", "qemu-aarch64-static"} {
			files["evil/usr/bin/"+name+":0755"] = trojan
			files["evil/usr/local/sbin/"+name+":0755"] = trojan
		}
		files["evil/lib/libnss_evil.so.2"] = "no library\n"
		files["Dockerfile"] = "FROM " + base + " AS evil\nCOPY evil/ /\nCOPY passwd nsswitch.conf /etc/\n" +
			"ENV PATH=/usr/local/sbin:/usr/bin:/bin LD_PRELOAD=/lib/libnss_evil.so.2\nADD a.tar.gz b.tar.xz c.tar.zst /new/\n" +
			"COPY --chown=ann:ann f /owned\nUSER ann\nWORKDIR /home/work\nRUN [ \"$(id -un)\" = ann ] && [ -f /new/f ]\n" +
			"FROM evil\nCOPY --from=evil /owned /again\n"
		dir := h.Files(files)
		for out, flag := range map[string]string{"a.tar.gz": "-z", "b.tar.xz": "-J", "c.tar.zst": "--zstd"} {
			h.Run("tar", "-C", dir, flag, "-cf", h.Path(out), "f")
		}
		image := registry.Name("evil-" + u.Name)
		build(h, "-t", image, "-o", "type=local,dest=out", "-o", "type=tar,dest=out.tar", "--push", dir).OK(t)
		// A second build on top of it, from another store: it is unpacked from its layers.
		h.Files(map[string]string{"next/Dockerfile": "FROM " + image + "\nUSER ann\nRUN true\nCOPY --chown=ann . /next\n"})
		h.Cairn("build", "--root", filepath.Join(h.Dir, "other"), h.Path("next")).OK(t)
		if data, err := os.ReadFile(mark); err == nil {
			t.Errorf("programs of the image were run on this machine:\n%s", data)
		}
	})
}

// TestLabelsSteerNothing is B18 and E3: what an image says of itself, in every name that some tool takes for a command, changes nothing here, and only
// -t names an image.
func TestLabelsSteerNothing(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	canary := h.Path("canary")
	var labels strings.Builder
	for _, key := range []string{"org.opencontainers.image.ref.name", "org.opencontainers.image.base.name", "io.containerd.image.name", "cairn.root",
		"dev.cairn.isolation", "cairn", "containerd.io/restart.loguri", "io.podman.annotations.privileged", "com.docker.security", "RUN"} {
		fmt.Fprintf(&labels, "LABEL %q=%q\n", key, canary)
	}
	for _, key := range []string{"CAIRN_ROOT", "XDG_DATA_HOME", "HOME", "TMPDIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "BUILDKIT_PROGRESS",
		"SOURCE_DATE_EPOCH", "LD_PRELOAD", "GODEBUG", "GIT_DIR", "SSH_AUTH_SOCK"} {
		fmt.Fprintf(&labels, "ENV %s=%s\n", key, canary)
	}
	dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\n" + labels.String() + "VOLUME " + canary + "\n"})
	build(h, "-t", registry.Name("steering"), "-o", "type=oci,dest=oci.tar", "--push", dir).OK(t)
	other := filepath.Join(h.Dir, "other")
	h.Files(map[string]string{"next/Dockerfile": "FROM " + registry.Name("steering") + "\nENV LD_PRELOAD= HOME=/\nRUN echo fine > /fine\nCOPY Dockerfile /\n"})
	r := h.Cairn("build", "--root", other, "--progress=plain", "-t", "only:this", h.Path("next")).OK(t)
	if !strings.Contains(r.Stderr, "\n#") && !strings.HasPrefix(r.Stderr, "#") {
		t.Errorf("the image chose how progress is shown: %v", r)
	}
	if got := h.Cairn("images", "--root", other, "--format", "{{.Repository}}:{{.Tag}}").OK(t).Stdout; got != "only:this\n" {
		t.Errorf("the images are %q, only one was named", got)
	}
	if _, err := os.Lstat(canary); err == nil {
		t.Errorf("%s was made", canary)
	}
}

// TestSharedCacheRace is B5: a step exchanges a directory of a cache mount for a link to the host while other builds mount it as the source of theirs.
func TestSharedCacheRace(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Files(map[string]string{
		"canary/file": "only for this machine\n",
		"attack/Dockerfile": "FROM " + base + "\nRUN --mount=type=cache,id=shared,target=/c cd /c && mkdir -p sub spare && ln -sfn " + h.Path("canary") +
			" link && echo ready && while [ ! -e stop ]; do mv -T sub away; mv -T link sub; mv -T sub link; mv -T away sub; done 2>/dev/null; true\n",
		"victim/Dockerfile": "FROM " + base + "\nRUN --mount=type=cache,id=shared,source=/sub,target=/m ls /m; ! grep -r machine /m\n",
		"stop/Dockerfile":   "FROM " + base + "\nRUN --mount=type=cache,id=shared,target=/c touch /c/stop\n",
	})
	log, err := os.Create(h.Path("log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	attack := h.CairnCommand("build", "--root", h.Root, "--progress=plain", h.Path("attack"))
	attack.Stdout, attack.Stderr = log, log
	if err := attack.Start(); err != nil {
		t.Fatal(err)
	}
	harness.WaitFor(t, harness.Timeout, "the attack runs", func() bool {
		data, _ := os.ReadFile(h.Path("log"))
		return strings.Contains(string(data), " ready\n")
	})
	rounds := torture.Times(10, 40)
	for range rounds {
		r := build(h, "--no-cache", h.Path("victim"))
		if strings.Contains(r.Stderr, "only for this") || strings.Contains(r.Stderr, "/m/file") {
			t.Fatalf("a build saw a file of this machine through a cache mount: %v", r)
		}
	}
	build(h, h.Path("stop")).OK(t)
	if err := attack.Wait(); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(h.Path("canary/file")); err != nil || string(data) != "only for this machine\n" {
		t.Errorf("the canary is %q, %v", data, err)
	}
	torture.Figure(t, "T3", "%d builds mounted a directory of a cache while another step exchanged it for a link to the host: none saw the host", rounds)
}
