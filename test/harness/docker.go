package harness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Docker is a Docker daemon of one test.
type Docker struct {
	// Host is its address, as DOCKER_HOST has it.
	Host string
	t    testing.TB
}

// StartDocker starts Debian's dockerd on a socket of its own, without a bridge, which lives until the end of the test. That needs
// root; as somebody else the test is skipped.
func StartDocker(t testing.TB) *Docker {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("dockerd needs root")
	}
	dir, err := os.MkdirTemp("", "cairn-docker-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	d := &Docker{Host: "unix://" + at("docker.sock"), t: t}
	var log bytes.Buffer
	cmd := exec.Command("dockerd", "--iptables=false", "--bridge=none", "--storage-driver", "vfs", "-H", d.Host,
		"--data-root", at("data"), "--exec-root", at("exec"), "--pidfile", at("pid"))
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting dockerd: %v", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it ends its containerd too
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("dockerd said last:\n%s", log.Bytes()[max(0, log.Len()-4000):])
		}
	})
	WaitFor(t, 30*time.Second, "dockerd answers", func() bool {
		return exec.Command("docker", "-H", d.Host, "version").Run() == nil
	})
	return d
}

// Run runs the docker command against the daemon and ends the test if it fails.
func (d *Docker) Run(args ...string) string {
	d.t.Helper()
	return Run(d.t, append([]string{"docker", "-H", d.Host}, args...)...)
}
