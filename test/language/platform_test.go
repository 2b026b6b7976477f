package language

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// binfmtDir is where the kernel shows the interpreters of programs that it cannot run itself.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// TestPush builds for two platforms and pushes one index, which skopeo reads.
func TestPush(t *testing.T) {
	w := newWorld(t)
	p := w.place(t)
	name := w.registry.Name("two:v1")
	harness.WriteFiles(t, p.ctx,
		map[string]string{"Dockerfile": p.fill("FROM --platform=$BUILDPLATFORM {base} AS build\nARG TARGETARCH\n" +
			"RUN echo for $TARGETARCH > /out\nFROM scratch\nCOPY --from=build /out /out\n")})
	res := w.home.Cairn("build", "--root", w.home.Root, "--progress=plain", "--platform", "linux/amd64,linux/arm64", "-t", name,
		"--push",
		"--metadata-file", filepath.Join(p.dir, "meta.json"), p.ctx).OK(t)
	for _, step := range []string{"[linux/amd64 stage-1 1/1] COPY", "[linux/arm64 stage-1 1/1] COPY"} {
		if !strings.Contains(res.Stderr, step) {
			t.Errorf("nothing shows %q:\n%s", step, res.Stderr)
		}
	}
	var index ocispec.Index
	raw := harness.Run(t, "skopeo", "inspect", "--raw", "--tls-verify=false", "docker://"+name)
	if err := json.Unmarshal([]byte(raw), &index); err != nil || len(index.Manifests) != 2 {
		t.Fatalf("%v: %s", err, raw)
	}
	digest := strings.TrimSpace(harness.Run(t, "skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}",
		"docker://"+name))
	meta, err := os.ReadFile(filepath.Join(p.dir, "meta.json"))
	if err != nil || !strings.Contains(string(meta), digest) {
		t.Errorf("the metadata file does not name %s: %v %s", digest, err, meta)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		if got := index.Manifests[i].Platform; got == nil || got.OS != "linux" || got.Architecture != arch {
			t.Errorf("manifest %d is for %v", i, got)
		}
		layout := w.registry.Unpack(t, "docker://"+w.registry.Name("two@"+index.Manifests[i].Digest.String()))
		if got := layout.Read("out"); got != "for "+arch+"\n" {
			t.Errorf("%s has %q", arch, got)
		}
	}
}

// TestEmulation runs programs of another architecture: without an interpreter, which is an error that says what is missing, and with
// one that this test registers in binfmt_misc and takes away again. It is root's alone, because registering is.
func TestEmulation(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root registers interpreters")
	}
	w := newWorld(t)
	w.vars["arm"] = w.registry.BusyboxArm(t)
	mount := harness.Try(t, "mountpoint", "-q", binfmtDir).Code != 0
	if mount {
		harness.Run(t, "mount", "-t", "binfmt_misc", "binfmt_misc", binfmtDir)
		t.Cleanup(func() { harness.Run(t, "umount", binfmtDir) })
	}
	if entries, _ := filepath.Glob(binfmtDir + "/*aarch64*"); len(entries) > 0 {
		t.Fatalf("this machine runs arm64 programs already: %v", entries)
	}
	run := row{file: "FROM {arm}\nRUN echo \"$(uname -m)\" > /o; cp /o /p\n",
		args: []string{"--no-cache", "--platform", "linux/arm64"}}
	script := row{file: "FROM {arm}\nCOPY --chmod=755 <<E /s\n#!/bin/sh\nuname -m > /o\nE\nRUN [\"/s\"]\n", args: run.args}

	t.Run("no interpreter", func(t *testing.T) {
		for _, r := range []row{run, script} {
			p := w.place(t)
			r.in(t, p).Fails(t, 1, "is a program for arm64", "no interpreter for arm64 is registered with binfmt_misc",
				"qemu-aarch64", "flag F", "Dockerfile:")
		}
	})
	t.Run("no RUN needs no interpreter", func(t *testing.T) {
		p := w.place(t)
		row{file: "FROM {arm}\nWORKDIR /w\nCOPY <<E f\nE\n", args: run.args}.in(t, p).OK(t)
		forPlatform("linux/arm64")(t, readArchive(t, p.out)[0])
	})
	t.Run("interpreter registered without F", func(t *testing.T) {
		register(t, "")
		p := w.place(t)
		run.in(t, p).Fails(t, 1, "is a program for arm64", "registered without the flag F", "Dockerfile:2")
	})
	t.Run("interpreter in the image", func(t *testing.T) {
		register(t, "")
		p := w.place(t)
		data, err := os.ReadFile(interpreter)
		if err != nil {
			t.Fatal(err)
		}
		harness.WriteFiles(t, p.ctx, map[string]string{"qemu:0755": string(data)})
		row{file: "FROM {arm}\nCOPY qemu " + interpreter + "\nRUN uname -m > /o\n", args: run.args}.in(t, p).OK(t)
		has("/o", "aarch64\n")(t, readArchive(t, p.out)[0])
	})
	t.Run("interpreter registered with F", func(t *testing.T) {
		register(t, "F")
		for _, r := range []row{run, script} {
			p := w.place(t)
			r.in(t, p).OK(t)
			im := readArchive(t, p.out)[0]
			has("/o", "aarch64\n")(t, im)
			forPlatform("linux/arm64")(t, im)
		}
	})
	t.Run("interpreter registered with F for a user", func(t *testing.T) {
		register(t, "F")
		h := harness.NewHome(t, harness.Unprivileged(t))
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + w.vars["arm"] + "\nRUN uname -m\n"})
		res := h.Cairn("build", "--root", h.Root, "--progress=plain", "--platform", "linux/arm64", dir).OK(t)
		if !strings.Contains(res.Stderr, " aarch64\n") {
			t.Errorf("no arm64 in\n%s", res.Stderr)
		}
	})
	t.Run("both platforms in one build", func(t *testing.T) {
		register(t, "F")
		p := w.place(t)
		row{file: "FROM --platform=linux/arm64 {arm} AS arm64\nFROM --platform=linux/amd64 {base} AS amd64\n" +
			"FROM $TARGETARCH\nRUN uname -m > /o\n",
			args: []string{"--no-cache", "--platform", "linux/amd64,linux/arm64"}}.in(t, p).OK(t)
		ims := readArchive(t, p.out)
		has("/o", unameMachine()+"\n")(t, ims[0])
		has("/o", "aarch64\n")(t, ims[1])
	})
}

// in builds a row in a place and returns what came of it.
func (r row) in(t *testing.T, p *place) harness.Result {
	t.Helper()
	harness.WriteFiles(t, p.dir, map[string]string{"Dockerfile": p.fill(r.file)})
	p.build(r)
	return p.result
}

// interpreter is Debian's static QEMU.
const interpreter = "/usr/bin/qemu-aarch64-static"

// register makes the kernel run arm64 programs with QEMU until the end of the test.
func register(t *testing.T, flags string) {
	t.Helper()
	magic := `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00`
	mask := `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
	const name = "cairn-test-aarch64"
	line := ":" + name + ":M::" + magic + ":" + mask + ":" + interpreter + ":" + flags
	if err := os.WriteFile(binfmtDir+"/register", []byte(line), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(binfmtDir, name), []byte("-1"), 0); err != nil {
			t.Error(err)
		}
	})
}
