package ladder

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/userns"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Isolation{"": Auto, "auto": Auto, "userns": Userns, "userns-single": UsernsSingle, "chroot": Chroot, "ptrace": Ptrace} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v", text, got, err)
		}
	}
	for _, bad := range []string{"Auto", "runc", " auto", "userns,chroot"} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %q, want an error", bad, got)
		}
	}
}

func TestMissed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Missed{
		"entering namespaces: creating a user namespace: operation not permitted (hint: another profile)": {
			Userns, "creating a user namespace: operation not permitted", "another profile"},
		"/etc/subuid has no range for uid 7 (hint: usermod)": {Userns, "/etc/subuid has no range for uid 7", "usermod"},
		"no chroot": {Userns, "no chroot", ""},
	} {
		if got := missed(Userns, text); got != want {
			t.Errorf("missed(%q) = %+v, want %+v", text, got, want)
		}
	}
}

func TestSentence(t *testing.T) {
	t.Parallel()
	if s := (&Rung{Isolation: Userns}).Sentence(); s != "" {
		t.Errorf("on the best rung: %q", s)
	}
	r := &Rung{Isolation: Ptrace}
	r.better(userns.Mode{Bare: true, Obstacle: "creating a user namespace: EPERM (hint: ask)"})
	want := "isolation is ptrace, since userns cannot be had here: creating a user namespace: EPERM (ask)"
	if s := r.Sentence(); s != want {
		t.Errorf("Sentence() = %q, want %q", s, want)
	}
	r = &Rung{Isolation: Userns}
	r.better(userns.Mode{Map: userns.Identity, Obstacle: "no new /proc"})
	if s := r.Sentence(); s != "" {
		t.Errorf("an obstacle within the best rung is not one of the rung: %q", s)
	}
}

// mountinfo is that of a container, cut down: its own overlay, a volume, one that is read-only, files and system mounts.
const mountinfo = `621 540 0:49 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
622 621 0:52 / /proc rw,nosuid - proc proc rw
623 621 0:53 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k
624 621 8:1 /pods/x VOLUME rw,relatime - ext4 /dev/sda1 rw
625 621 8:1 /pods/y READONLY ro,relatime - ext4 /dev/sda1 rw
626 621 8:1 /hosts FILE rw,relatime - ext4 /dev/sda1 rw
627 621 0:60 / MEMORY rw,relatime shared:1 - tmpfs tmpfs rw
628 621 8:2 / WITH\040SPACE rw,relatime - xfs /dev/sdb rw
629 621 0:61 / SHARE rw,relatime - nfs4 server:/x rw
broken line
`

func TestVolumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := mountinfo
	for _, name := range []string{"VOLUME", "READONLY", "MEMORY", "WITH SPACE", "SHARE"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "FILE"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"VOLUME", "READONLY", "MEMORY", `WITH\040SPACE`, "SHARE", "FILE"} {
		text = strings.Replace(text, " "+name+" ", " "+dir+"/"+name+" ", 1)
	}
	want := []string{dir + "/VOLUME", dir + "/WITH SPACE", dir + "/MEMORY"}
	if got := volumes(text); !reflect.DeepEqual(got, want) {
		t.Errorf("volumes = %q, want %q", got, want)
	}
}

func TestStateDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if onOverlay(dir) {
		t.Skip("the directory for tests is on an overlay file system itself") // the next case is about one that is not
	}
	usual := filepath.Join(dir, "a", "b")
	if got, moved := StateDir(State{Usual: usual, Temp: dir}); got != usual || moved != "" {
		t.Errorf("StateDir = %q, %q", got, moved)
	}
	// Nothing usual at all: somewhere else, and it says so.
	if got, moved := StateDir(State{Temp: dir, Avoid: []string{"/"}}); filepath.Dir(got) != dir || !strings.Contains(moved, "HOME") {
		t.Errorf("StateDir = %q, %q", got, moved)
	}
}
