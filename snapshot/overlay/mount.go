package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/hint"

	"golang.org/x/sys/unix"
)

// The kernel takes at most 500 lower directories in one mount (OVL_MAX_STACK), and mount(2) at most a page of options.
const (
	maxLowers  = 500
	maxOptions = 4096
)

// mountOverlay mounts the lower directories, topmost first, with dir/upper over them at dir/root.
//
// Directories are named through their descriptors: such names are short, and no character in a path needs escaping. Where even so they do
// not fit, the new mount API takes one at a time (lowerdir+, Linux 6.5). Where that cannot do it either, the
// bottom layers are mounted together at dir/base first, read-only, and that is the lowest directory: under the bottom there is
// nothing that their whiteouts, which do not show through such a mount, would have to hide.
func mountOverlay(dir string, lowers []string) error {
	err := errTooMany
	if len(lowers) <= maxLowers {
		err = mountOne(filepath.Join(dir, "root"), lowers, dir)
	}
	if !errors.Is(err, errTooMany) {
		return err
	}
	// Two full mounts, of which one is a layer of the other. A third would be one too many for the kernel.
	if most := 2*maxLowers - 1; len(lowers) > most {
		return fmt.Errorf("mounting an overlay of %d layers: the kernel takes %d at most; put several commands into one RUN", len(lowers), most)
	}
	base := filepath.Join(dir, "base")
	if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Halves are what the shortest limit allows most with.
	half := len(lowers) / 2
	if err := mountOne(base, lowers[half:], ""); err != nil {
		return err
	}
	err = mountOne(filepath.Join(dir, "root"), append(lowers[:half:half], base), dir)
	// An overlay holds mounts of its lower directories of its own: the one by which it found this one has done its work.
	return errors.Join(err, unmount(base, unix.MNT_DETACH))
}

var errTooMany = errors.New("too many layers for one mount")

// mountOne mounts lowers at target. writable is the directory with upper and work, "" for a mount that is read-only.
func mountOne(target string, lowers []string, writable string) error {
	fds := descriptors{}
	defer fds.close()
	o := options{{"userxattr", ""}, {"index", "off"}, {"metacopy", "off"}}
	if writable != "" {
		o = append(o, option{"volatile", ""})
		for _, name := range []string{"upper", "work"} {
			path, err := fds.open(filepath.Join(writable, name))
			if err != nil {
				return err
			}
			o = append(o, option{name + "dir", path})
		}
	}
	paths := make([]string, len(lowers))
	for i, lower := range lowers {
		var err error
		if paths[i], err = fds.open(lower); err != nil {
			return err
		}
	}
	err := mountWith(target, o, paths)
	if errors.Is(err, unix.EINVAL) && writable != "" {
		// Linux before 5.10, or an upper file system that volatile is not for.
		err = mountWith(target, o.without("volatile"), paths)
	}
	if err == nil && writable != "" {
		err = checkWritable(target, writable)
	}
	if err != nil && !errors.Is(err, errTooMany) {
		return explain(fmt.Errorf("mounting an overlay of %d layers: %w", len(lowers), err), writable)
	}
	return err
}

// checkWritable undoes a mount that is read-only because the kernel could not make what it needs in the work directory, which it tells its log
// alone. Nearly always there is no room, or no inode left.
func checkWritable(target, writable string) error {
	var mounted, disk unix.Statfs_t
	if err := unix.Statfs(target, &mounted); err != nil || mounted.Flags&unix.ST_RDONLY == 0 {
		return err
	}
	why := unix.EROFS
	const few = 16 // of inodes and blocks: a mount takes four
	if err := unix.Statfs(writable, &disk); err == nil && (disk.Bavail < few || disk.Files > 0 && disk.Ffree < few) {
		why = unix.ENOSPC
	}
	return errors.Join(fmt.Errorf("preparing %s: %w", filepath.Join(writable, "work"), why), unmount(target, unix.MNT_DETACH))
}

// explain says what is probably wrong when the kernel has refused a mount; it says no more than an error number itself.
func explain(err error, writable string) error {
	var fs unix.Statfs_t
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (not in a user and mount namespace of its own, or mounts are forbidden here)", err)
	case errors.Is(err, unix.EINVAL) && writable != "" && unix.Statfs(writable, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC:
		return hint.With(fmt.Errorf("%w (the store is on an overlay file system, which cannot hold the changes of another one)", err),
			"keep state on a volume or a tmpfs: --root DIR, where an emptyDir or the like is mounted")
	}
	return err
}

// mountWith mounts by mount(2), or by the new mount API where the options are too long.
func mountWith(target string, o options, lowers []string) error {
	data := o.with(option{"lowerdir", strings.Join(lowers, ":")}).String()
	if len(data) < maxOptions {
		return unix.Mount("overlay", target, "overlay", 0, data)
	}
	return mountNew(target, o, lowers)
}

// mountNew mounts by fsopen and its kin. A kernel that does not know them or lowerdir+ is errTooMany.
func mountNew(target string, o options, lowers []string) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return errTooMany
	}
	if err != nil {
		return err
	}
	defer unix.Close(fsfd)
	for i, lower := range lowers {
		err := unix.FsconfigSetString(fsfd, "lowerdir+", lower)
		if i == 0 && errors.Is(err, unix.EINVAL) {
			return errTooMany
		}
		if err != nil {
			return err
		}
	}
	for _, opt := range o {
		if opt.value == "" {
			err = unix.FsconfigSetFlag(fsfd, opt.name)
		} else {
			err = unix.FsconfigSetString(fsfd, opt.name, opt.value)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return err
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mfd)
	return unix.MoveMount(mfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// option is one mount option; a flag has no value.
type option struct{ name, value string }

type options []option

func (o options) with(more option) options { return append(o[:len(o):len(o)], more) }

func (o options) without(name string) options {
	var out options
	for _, opt := range o {
		if opt.name != name {
			out = append(out, opt)
		}
	}
	return out
}

func (o options) String() string {
	var parts []string
	for _, opt := range o {
		if opt.value == "" {
			parts = append(parts, opt.name)
		} else {
			parts = append(parts, opt.name+"="+opt.value)
		}
	}
	return strings.Join(parts, ",")
}

// descriptors are directories held open while they are mounted.
type descriptors []int

// open returns a short name of a directory, good as long as it is held.
func (d *descriptors) open(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	*d = append(*d, fd)
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}

// close closes them all. It must see those that were opened after it was deferred.
func (d *descriptors) close() {
	for _, fd := range *d {
		unix.Close(fd)
	}
}

// A process that is just dying may keep a mount busy for a moment.
const (
	unmountPatience = 2 * time.Second
	unmountPause    = 5 * time.Millisecond
)

// unmount unmounts path; one that is not mounted, or not there, is no error.
func unmount(path string, flags int) error {
	end := time.Now().Add(unmountPatience)
	for {
		err := unix.Unmount(path, flags|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(end):
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
		time.Sleep(unmountPause)
	}
}
