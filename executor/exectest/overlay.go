package exectest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
	"golang.org/x/sys/unix"
)

// Overlay runs over an overlay, as builds do: a run that writes nothing leaves an upper directory in which nothing is new.
func Overlay(t *testing.T, e executor.Executor) {
	t.Helper()
	lower, dir := Root(t), t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	merged := filepath.Join(dir, "merged")
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,userxattr", lower, dir, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(merged, unix.MNT_DETACH)
	if err := e.Run(t.Context(), Shell(merged, "cat /etc/hosts /etc/resolv.conf >/dev/null")); err != nil {
		t.Fatal(err)
	}
	// The directories that mount points were made in have been copied up; they are equal to the ones below.
	left, err := exec.Command("find", filepath.Join(dir, "upper"), "-mindepth", "1").Output()
	if err != nil || strings.TrimSpace(string(left)) != filepath.Join(dir, "upper", "etc") {
		t.Errorf("upper directory: %s, %v", left, err)
	}
	for _, d := range []string{".", "etc"} {
		up, err := os.Stat(filepath.Join(dir, "upper", d))
		low, lerr := os.Stat(filepath.Join(lower, d))
		if err := errors.Join(err, lerr); err != nil {
			t.Fatal(err)
		}
		if d != "." && (!up.ModTime().Equal(low.ModTime()) || up.Mode() != low.Mode()) {
			t.Errorf("%s is %v %v, was %v %v", d, up.Mode(), up.ModTime(), low.Mode(), low.ModTime())
		}
	}
}

// Benchmark measures a process that does nothing.
func Benchmark(b *testing.B, e executor.Executor) {
	root := Root(b)
	for _, network := range []executor.NetworkMode{executor.NetworkDefault, executor.NetworkNone} {
		b.Run("network="+string(network), func(b *testing.B) {
			for b.Loop() {
				spec := Shell(root, "true")
				spec.Network = network
				if err := e.Run(b.Context(), spec); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
