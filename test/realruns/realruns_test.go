// Package realruns builds Dockerfiles whose RUN lines do what real ones do, and look at what came of it, with every isolation that there is here.
package realruns

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

var (
	large = flag.Bool("large", false, "build what needs package managers, compilers and run times too, from Debian's archive (make realruns)")
	only  = flag.String("only", "userns,userns-single,ptrace", "these `isolations`")
)

// TestSmall needs no network.
func TestSmall(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	debian, busybox := registry.Debian(t), registry.Busybox(t)
	for isolation := range strings.SplitSeq(*only, ",") {
		t.Run(isolation, func(t *testing.T) {
			build(t, isolation, "small", "--build-arg", "BASE="+debian, "--build-arg", "BUSYBOX="+busybox)
		})
	}
}

// TestLarge is `make realruns`.
func TestLarge(t *testing.T) {
	if !*large {
		t.Skip("this needs Debian's archive and npm's, and half an hour") // TestSmall is the part of it that every change is tested with
	}
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	debian, tools := registry.Debian(t), registry.Name("tools:latest")
	build(t, "userns", "tools", "--build-arg", "BASE="+debian, "--push", "-t", tools)
	for isolation := range strings.SplitSeq(*only, ",") {
		t.Run(isolation, func(t *testing.T) {
			build(t, isolation, "large", "--build-arg", "BASE="+tools, "--secret", "id=ca,src=/etc/ssl/certs/ca-certificates.crt")
		})
	}
}

// build builds one of the Dockerfiles as the unprivileged user.
func build(t *testing.T, isolation, name string, flags ...string) {
	t.Helper()
	h := harness.NewHome(t, harness.Unprivileged(t))
	text, err := os.ReadFile(name + "/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	dir := h.Files(map[string]string{"Dockerfile": string(text)})
	args := append([]string{"build", "--root", h.Root, "--isolation", isolation, "--progress", "plain"}, flags...)
	h.Cairn(append(args, dir)...).OK(t)
}
