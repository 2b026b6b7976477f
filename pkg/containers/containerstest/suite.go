// Package containerstest is what every backend of package containers must do, whatever runs its containers: streams and exit codes, environment, working
// directory, mounts, the image's own command, logs without a loss, removal, cleaning, and building.
//
//	containerstest.Run(t, backend, "registry.example/busybox")
//
// The image must have /bin/sh with the usual commands, a command of its own that ends by itself, and be there to be pulled.
package containerstest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/containers/core"
	"github.com/moby/moby/api/pkg/stdcopy"
)

// limit bounds one case.
const limit = 3 * time.Minute

// suite is a backend under test.
type suite struct {
	core.Backend
	image string
}

// Run tests a backend with an image.
func Run(t *testing.T, b core.Backend, image string) {
	t.Helper()
	s := suite{b, image}
	if err := b.Image(image).Pull(t.Context()); err != nil {
		t.Fatalf("pulling %s: %v", image, err)
	}
	for _, c := range []struct {
		name string
		test func(*testing.T, suite)
	}{
		{"HealthCheck", healthCheck}, {"Stdout", stdout}, {"Stderr", stderr}, {"ExitCode", exitCode}, {"Env", env}, {"WorkDir", workDir},
		{"BindMount", bindMount}, {"ReadOnlyMount", readOnlyMount}, {"ImageDefaults", imageDefaults}, {"LargeOutput", largeOutput},
		{"NoNetwork", noNetwork}, {"RemoveIsFinal", removeIsFinal}, {"UnknownContainer", unknownContainer}, {"WaitIsCancelled", waitIsCancelled},
		{"StopsRunningContainer", stopsRunningContainer}, {"RemovesRunningContainer", removesRunningContainer},
		{"CommandNotFound", commandNotFound}, {"ImageNames", imageNames}, {"CleanKeepsRecentImages", cleanKeepsRecentImages},
		{"BuildFromDockerfile", buildFromDockerfile}, {"FailingBuild", failingBuild}, {"ImageRemove", imageRemove},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// result is what a container that has ended left.
type result struct {
	stdout, stderr string
	info           *core.ContainerInfo
}

// create makes a container that is gone at the end of the test, whatever happens.
func (s suite) create(t *testing.T, c *core.ContainerConfig) core.ContainerID {
	t.Helper()
	if c.Image == "" {
		c.Image = s.image
	}
	id, err := s.Create(within(t), c)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
		defer cancel()
		_ = s.Remove(ctx, id) // most tests have done it
	})
	return id
}

// run has a container live its whole life.
func (s suite) run(t *testing.T, c *core.ContainerConfig) result {
	t.Helper()
	ctx := within(t)
	id := s.create(t, c)
	if err := s.Start(ctx, id); err != nil {
		t.Fatalf("Start: %v", err)
	}
	if err := s.Wait(ctx, id); err != nil {
		t.Fatalf("Wait: %v", err)
	}
	r := s.look(t, id)
	if err := s.Remove(ctx, id); err != nil {
		t.Errorf("Remove: %v", err)
	}
	return r
}

// look reads a container's state and logs.
func (s suite) look(t *testing.T, id core.ContainerID) (r result) {
	t.Helper()
	var err error
	if r.info, err = s.Inspect(within(t), id); err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	logs, err := s.Logs(within(t), id)
	if err != nil {
		t.Fatalf("Logs: %v", err)
	}
	defer logs.Close()
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, logs); err != nil {
		t.Fatalf("the logs are not in Docker's frames: %v", err)
	}
	r.stdout, r.stderr = out.String(), errOut.String()
	return r
}

func (r result) want(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.info.ExitCode != code || r.stdout != stdout || r.stderr != stderr {
		t.Errorf("exit code %d, stdout %q, stderr %q; want %d, %q, %q", r.info.ExitCode, r.stdout, r.stderr, code, stdout, stderr)
	}
}

func sh(script string) *core.ContainerConfig {
	return &core.ContainerConfig{Command: []string{"/bin/sh", "-c", script}}
}

func healthCheck(t *testing.T, s suite) {
	if err := s.HealthCheck(within(t)); err != nil {
		t.Error(err)
	}
}

func stdout(t *testing.T, s suite) { s.run(t, sh("echo to stdout")).want(t, 0, "to stdout\n", "") }

func stderr(t *testing.T, s suite) { s.run(t, sh("echo to stderr >&2")).want(t, 0, "", "to stderr\n") }

func exitCode(t *testing.T, s suite) {
	r := s.run(t, sh("echo what went wrong; exit 3"))
	r.want(t, 3, "what went wrong\n", "")
	if r.info.Status != "exited" || r.info.Image != s.image || r.info.StartedAt.IsZero() {
		t.Errorf("Inspect says %+v", r.info)
	}
}

func env(t *testing.T, s suite) {
	c := sh(`echo "$ONE-$TWO"; test -n "$PATH"`)
	c.Env = []string{"ONE=1", "TWO=two words"}
	s.run(t, c).want(t, 0, "1-two words\n", "")
}

func workDir(t *testing.T, s suite) {
	c := sh("pwd")
	c.WorkDir = "/tmp"
	s.run(t, c).want(t, 0, "/tmp\n", "")
}

// shared is a directory that a container may write to whoever its root is.
func shared(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			break // somebody else's
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("of the machine"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func bindMount(t *testing.T, s suite) {
	dir := shared(t)
	c := sh("cat /mnt/data/in; echo of the container > /mnt/data/out")
	c.Volumes = []core.VolumeMount{{Source: dir, Destination: "/mnt/data"}}
	s.run(t, c).want(t, 0, "of the machine", "")
	if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(got) != "of the container\n" {
		t.Errorf("the machine reads %q, %v", got, err)
	}
}

func readOnlyMount(t *testing.T, s suite) {
	dir := shared(t)
	c := sh("echo no > /mnt/in")
	c.Volumes = []core.VolumeMount{{Source: dir, Destination: "/mnt", ReadOnly: true}}
	if r := s.run(t, c); r.info.ExitCode == 0 {
		t.Error("A CONTAINER HAS WRITTEN TO A READ-ONLY MOUNT!")
	}
}

func imageDefaults(t *testing.T, s suite) {
	r := s.run(t, &core.ContainerConfig{})
	if r.info.ExitCode != 0 {
		t.Errorf("the image's own command ends with %d: %s", r.info.ExitCode, r.stderr)
	}
}

func largeOutput(t *testing.T, s suite) {
	const n = 20_000
	r := s.run(t, sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", n)))
	if got := strings.Count(r.stdout, "\n"); got != n || !strings.HasSuffix(r.stdout, fmt.Sprintf("line %d\n", n-1)) {
		t.Errorf("%d lines arrived of %d, the last is %q", got, n, r.stdout[max(0, len(r.stdout)-20):])
	}
}

func noNetwork(t *testing.T, s suite) {
	c := sh("ls /sys/class/net /proc/sys/net/ipv4/conf | grep -c eth || true; cat /proc/net/route | wc -l")
	c.Network = &core.NetworkConfig{Mode: "none"}
	s.run(t, c).want(t, 0, "0\n1\n", "")
}

func removeIsFinal(t *testing.T, s suite) {
	ctx := within(t)
	id := s.create(t, sh("true"))
	if err := s.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, id); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if info, err := s.Inspect(ctx, id); err == nil {
		t.Errorf("a removed container can be inspected: %+v", info)
	}
	if logs, err := s.Logs(ctx, id); err == nil {
		if _, err := io.ReadAll(logs); err == nil {
			t.Error("a removed container has logs")
		}
		logs.Close()
	}
}

func unknownContainer(t *testing.T, s suite) {
	const id = "0000000000000000000000000000000000000000000000000000000000000000"
	if err := s.Start(within(t), id); err == nil {
		t.Error("an unknown container was started")
	}
	if _, err := s.Inspect(within(t), id); err == nil {
		t.Error("an unknown container was inspected")
	}
}

func waitIsCancelled(t *testing.T, s suite) {
	id := s.create(t, sh("sleep 1000"))
	if err := s.Start(within(t), id); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx, id); err == nil {
		t.Error("Wait has not noticed the end of its context")
	}
	if info, err := s.Inspect(within(t), id); err != nil || info.Status != "running" {
		t.Errorf("the container is %+v, %v; want it running still", info, err)
	}
}

func stopsRunningContainer(t *testing.T, s suite) {
	ctx := within(t)
	dir := shared(t)
	c := sh("echo before the end; echo > /mnt/ready; sleep 1000")
	c.Volumes = []core.VolumeMount{{Source: dir, Destination: "/mnt"}}
	id := s.create(t, c)
	if err := s.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the container has not begun")
		}
		time.Sleep(10 * time.Millisecond)
	}
	for range 2 {
		if err := s.Stop(ctx, id); err != nil {
			t.Fatalf("Stop: %v", err)
		}
	}
	r := s.look(t, id)
	if r.stdout != "before the end\n" || r.info.Status == "created" || r.info.Status == "running" || r.info.ExitCode == 0 {
		t.Errorf("after Stop: stdout %q, %+v", r.stdout, r.info)
	}
	if err := s.Remove(ctx, id); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

func removesRunningContainer(t *testing.T, s suite) {
	id := s.create(t, sh("sleep 1000"))
	if err := s.Start(within(t), id); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(within(t), id); err != nil {
		t.Fatalf("Remove: %v", err)
	}
	if _, err := s.Inspect(within(t), id); err == nil {
		t.Error("a removed container can be inspected")
	}
}

func commandNotFound(t *testing.T, s suite) {
	id := s.create(t, &core.ContainerConfig{Command: []string{"/no/such/command"}})
	if err := s.Start(within(t), id); err == nil {
		t.Error("a command that does not exist was started")
	}
}

func imageNames(t *testing.T, s suite) {
	img := s.Image(s.image)
	if img.Name() != s.image || !img.Exists(within(t)) {
		t.Errorf("Name is %q, Exists %v", img.Name(), img.Exists(within(t)))
	}
	d, err := img.Digest(within(t))
	if err != nil || len(d) != 64 || strings.Trim(d, "0123456789abcdef") != "" {
		t.Errorf("Digest is %q, %v", d, err)
	}
	tags, err := img.Tags(within(t))
	if err != nil || len(tags) == 0 {
		t.Errorf("Tags are %q, %v", tags, err)
	}
	if s.Image(newName()).Exists(within(t)) {
		t.Error("an image that nobody has made exists")
	}
}

// cleanKeepsRecentImages asks for nothing to be removed: the machine may have images of others.
func cleanKeepsRecentImages(t *testing.T, s suite) {
	if err := s.Clean(within(t), 100*365*24*time.Hour, s.image); err != nil {
		t.Errorf("Clean: %v", err)
	}
	if !s.Image(s.image).Exists(within(t)) {
		t.Error("AN IMAGE YOUNGER THAN A CENTURY IS GONE!")
	}
}

func newName() string { return "localhost/containerstest-" + strings.ToLower(rand.Text()) + ":latest" }

func contextTar(t *testing.T, dockerfile string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(dockerfile))})
	if err == nil {
		_, err = io.WriteString(w, dockerfile)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return &b
}

// built builds an image that is removed at the end of the test.
func (s suite) built(t *testing.T, dockerfile string) string {
	t.Helper()
	if !s.Capabilities().SupportsBuild {
		t.Skip("this backend builds no images, and says so")
	}
	name := newName()
	t.Cleanup(func() { _ = s.Image(name).Remove(context.WithoutCancel(t.Context())) })
	if err := s.Image(name).Build(within(t), &core.DockerfileBuild{Context: contextTar(t, dockerfile)}); err != nil {
		t.Fatalf("Build: %v", err)
	}
	return name
}

func buildFromDockerfile(t *testing.T, s suite) {
	name := s.built(t, "FROM "+s.image+"\nENV WHO=nobody\nRUN echo built > /made\nCMD cat /made; echo for $WHO\n")
	if !s.Image(name).Exists(within(t)) {
		t.Error("the image that was built does not exist")
	}
	s.run(t, &core.ContainerConfig{Image: name, Env: []string{"WHO=ann"}}).want(t, 0, "built\nfor ann\n", "")
}

func failingBuild(t *testing.T, s suite) {
	if !s.Capabilities().SupportsBuild {
		t.Skip("this backend builds no images, and says so")
	}
	name := newName()
	err := s.Image(name).Build(within(t), &core.DockerfileBuild{Context: contextTar(t, "FROM "+s.image+"\nRUN exit 7\n")})
	if err == nil || s.Image(name).Exists(within(t)) {
		t.Errorf("a build whose RUN fails: %v", err)
	}
}

func imageRemove(t *testing.T, s suite) {
	name := s.built(t, "FROM "+s.image+"\nLABEL a=b\n")
	if err := s.Image(name).Remove(within(t)); err != nil || s.Image(name).Exists(within(t)) {
		t.Errorf("Remove: %v", err)
	}
	if err := s.Image(name).Remove(within(t)); err == nil {
		t.Error("an image was removed twice")
	}
}
