package ptrace

import "testing"

func TestBelow(t *testing.T) {
	mounts := mountTable{{Target: "/"}, {Target: "/dev"}, {Target: "/dev/shm"}, {Target: "/a/m"}}
	for path, want := range map[string]string{
		"/usr/lib/x": "/usr/lib/x", "/usr/../lib/x": "/lib/x", "/usr/./lib//x": "/usr/lib/x", "/../../x": "/x", "/usr/.hidden": "/usr/.hidden",
		"/device/..x": "/device/..x", "/a/b/../c": "/a/c", "/a/mm": "/a/mm", "/a": "/a",
		// Below a mount, by way of one, directories by form, and the root itself.
		"/dev/null": "", "/dev/../x": "", "/usr/../dev/shm/../../x": "", "/a/m": "", "/a/x/../m/y": "", "/usr/": "", "/usr/.": "", "/usr/..": "", "/": "",
	} {
		if got, ok := mounts.below(path); got != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", path, got, ok, want)
		}
	}
}
