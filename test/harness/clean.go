package harness

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// CheckClean checks that nothing of the home's cairn is left: no process of the program and none inside one of its root file systems, no
// mount, nothing in the store's folder of unfinished things, no file of the store open in any process, and no cgroup. What is on its way out gets a few seconds.
func (h *Home) CheckClean() {
	h.t.Helper()
	var left []string
	// One look may take long itself on a busy machine.
	end := time.Now().Add(5 * time.Second)
	for looks := 1; looks < 4 || time.Now().Before(end); looks++ {
		if left = h.Leftovers(); len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// Leftovers lists the processes, mounts, open files, temporary files and cgroups that are there now.
func (h *Home) Leftovers() []string {
	left := append(h.Processes(), descriptors(h.Root)...)
	for _, c := range emptyCgroups(cgroupRoot) {
		if !slices.Contains(h.cgroups, c) {
			left = append(left, "cgroup "+c)
		}
	}
	tmp, err := os.ReadDir(filepath.Join(h.Root, "tmp"))
	if err != nil && !os.IsNotExist(err) {
		left = append(left, err.Error())
	}
	for _, e := range tmp {
		left = append(left, "temporary "+filepath.Join(h.Root, "tmp", e.Name()))
	}
	return left
}

// Processes finds every process whose mounts show the home's store, and every one that is cairn working on it. A mount that is left in this
// test's own namespace shows up as one of the test's process.
func (h *Home) Processes() []string {
	var left []string
	// By threads: a process whose first thread has ended shows nothing of the others, which still hold its files.
	infos, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/mountinfo")
	for _, info := range infos {
		proc := filepath.Dir(info)
		cmdline, _ := os.ReadFile(filepath.Join(proc, "cmdline"))
		command := strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
		mounts, _ := os.ReadFile(info)
		for _, line := range strings.Split(string(mounts), "\n") {
			if strings.Contains(line, h.Root) {
				left = append(left, "mount in "+proc+" ("+command+"): "+line)
			}
		}
		exe, _ := os.Readlink(filepath.Join(proc, "exe"))
		if strings.Contains(exe, "cairn") && !strings.HasSuffix(exe, ".test") && h.owns(proc) {
			left = append(left, "process "+proc+": "+command)
		}
	}
	return left
}

// owns reports whether a process was started from the home.
func (h *Home) owns(proc string) bool {
	env, _ := os.ReadFile(filepath.Join(proc, "environ"))
	return strings.Contains("\x00"+string(env), "\x00HOME="+h.Dir+"\x00")
}

// descriptors lists the files below a directory that processes hold open, also those that are deleted: what outlives a build has not inherited them.
func descriptors(dir string) (left []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to+"/", dir+"/") {
			left = append(left, "descriptor "+link+": "+to)
		}
	}
	return left
}
