package exectest

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

func testEtcFiles(t *testing.T, e executor.Executor) {
	root := Root(t)
	spec := Shell(root, "cat /etc/hosts; echo --; hostname; echo --; cat /etc/resolv.conf")
	spec.Hosts = []executor.Host{{Name: "db", IP: netip.MustParseAddr("10.1.2.3")}, {Name: "six", IP: netip.MustParseAddr("fe80::1")}}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	want := "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tdb\nfe80::1\tsix\n" +
		"--\nbuildkitsandbox\n--\n" + string(resolv)
	if got := output(t, e, spec); got != strings.TrimSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	spec = Shell(root, "hostname; grep -c other /etc/hosts")
	spec.Hostname = "other"
	if got := output(t, e, spec); got != "other\n1" {
		t.Errorf("with a name: %q", got)
	}
	// The image's own files are hidden, not changed.
	must(t, os.WriteFile(filepath.Join(root, "etc/hosts"), []byte("mine"), 0o644))
	before := tree(t, root)
	if out, _, err := run(t, e, Shell(root, "cat /etc/hosts; echo x >/etc/hosts")); err == nil || strings.Contains(out, "mine") {
		t.Errorf("/etc/hosts of the image shows or can be written: %q, %v", out, err)
	}
	sameTree(t, "the image's files", before, tree(t, root))
}

func testNetworkNone(t *testing.T, e executor.Executor) {
	spec := Shell(Root(t), "ls /sys/class/net; cat /sys/class/net/lo/flags; ip route; readlink /proc/self/ns/net")
	spec.Network = executor.NetworkNone
	got := strings.Split(output(t, e, spec), "\n")
	host, _ := os.Readlink("/proc/self/ns/net")
	if len(got) != 3 || got[0] != "lo" || got[1] != "0x9" || got[2] == host {
		t.Errorf("interfaces, flags of lo, routes, namespace: %q", got)
	}
}

func testNetworkDefault(t *testing.T, e executor.Executor) {
	host, _ := os.Readlink("/proc/self/ns/net")
	for _, mode := range []executor.NetworkMode{executor.NetworkDefault, executor.NetworkHost} {
		spec := Shell(Root(t), "readlink /proc/self/ns/net")
		spec.Network = mode
		if got := output(t, e, spec); got != host {
			t.Errorf("network %q is %s, want the caller's %s", mode, got, host)
		}
	}
}
