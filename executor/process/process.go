// Package process is what every executor does before it starts a process: it checks the Spec, looks the user up in the image, completes the
// environment and writes the files of /etc that are not the image's own.
package process

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/executor"
)

// DefaultHostname is that of BuildKit's sandboxes, for a Spec that has no name of its own.
const DefaultHostname = "buildkitsandbox"

// Hostname is the host name that a Spec asks for.
func Hostname(spec executor.Spec) string {
	return cmp.Or(spec.Hostname, spec.DefaultHostname, DefaultHostname)
}

// Hosts is the content of /etc/hosts, as BuildKit writes it.
func Hosts(spec executor.Spec) string {
	var hosts strings.Builder
	fmt.Fprintf(&hosts, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", Hostname(spec))
	for _, h := range spec.Hosts {
		fmt.Fprintf(&hosts, "%s\t%s\n", h.IP, h.Name)
	}
	return hosts.String()
}

// Check refuses what has no meaning here: a wrong value must never become a default.
func Check(spec executor.Spec) error {
	switch {
	case len(spec.Process.Args) == 0 || spec.Process.Args[0] == "":
		return errors.New("running a process: no command given")
	case !slices.Contains([]executor.NetworkMode{executor.NetworkDefault, executor.NetworkNone, executor.NetworkHost}, spec.Network):
		return fmt.Errorf("running %q: unknown network mode %q", spec.Process.Args[0], spec.Network)
	case !slices.Contains([]executor.SecurityMode{executor.SecuritySandbox, executor.SecurityInsecure}, spec.Security):
		return fmt.Errorf("running %q: unknown security mode %q", spec.Process.Args[0], spec.Security)
	case spec.Process.Dir != "" && !filepath.IsAbs(spec.Process.Dir):
		return fmt.Errorf("running %q: working directory %q is not absolute", spec.Process.Args[0], spec.Process.Dir)
	case spec.ShmSize < 0:
		return fmt.Errorf("running %q: shm size %d is negative", spec.Process.Args[0], spec.ShmSize)
	}
	return nil
}

// defaultPath is what BuildKit sets for an image without a PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment completes env with PATH and HOME. home is that of LookupUser.
func Environment(env []string, home string) []string {
	out := slices.Clone(env)
	has := func(name string) bool {
		for _, kv := range slices.Backward(out) {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v != ""
			}
		}
		return false
	}
	if !has("PATH") {
		out = append(out, "PATH="+defaultPath)
	}
	if !has("HOME") {
		out = append(out, "HOME="+home)
	}
	return out
}
