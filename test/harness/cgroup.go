package harness

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
)

// cgroupRoot is where the hierarchies of this machine are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// ofRun is how libcontainer would name the cgroup of a run: after the directory that executor/runc keeps it in. The other executors name none.
var ofRun = regexp.MustCompile(`^run-[0-9]+$`)

// Cgroups lists the cgroups of runs that are over, in all hierarchies: those without a process. A run that is under way, of whomever, has one.
func Cgroups() []string { return emptyCgroups(cgroupRoot) }

func emptyCgroups(root string) (found []string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		// An error: it has gone meanwhile, or is not ours to look into.
		if err != nil || !d.IsDir() || !ofRun.MatchString(d.Name()) {
			return nil
		}
		if procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs")); err == nil && len(procs) == 0 {
			found = append(found, path)
		}
		return nil
	})
	return found
}
