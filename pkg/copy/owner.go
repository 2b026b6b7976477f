package copy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/moby/sys/user"
)

// maxUserFile bounds /etc/passwd and /etc/group, which belong to strangers.
const maxUserFile = 1 << 20

// owner is what --chown says; nil keeps the owners of the source.
type owner struct {
	uid, gid int
	// unknown says of names that the stage does not know.
	unknown []string
}

func (o *owner) apply(e *layer.Entry) {
	if o != nil {
		e.UID, e.GID = o.uid, o.gid
	}
}

// errNobody says that a name is not in the stage's user files.
var errNobody = errors.New("no")

// owner looks up --chown. A user without a group gets its own group from /etc/passwd, a number the group of the same number. A name
// that the stage does not know is root, and as a group that of the user: BuildKit makes no error of it either.
func (r Request) owner() (*owner, error) {
	if r.Chown == "" {
		return nil, nil
	}
	u, g, _ := strings.Cut(r.Chown, ":")
	var o owner
	uid, number, err := parseID(u)
	if err != nil {
		return nil, fmt.Errorf("reading --chown=%s: %w", r.Chown, err)
	}
	if number {
		o.uid, o.gid = uid, uid
	} else if o.uid, o.gid, err = r.userByName(u); o.forgive(err, 0) != nil {
		return nil, fmt.Errorf("looking up --chown=%s: %w", r.Chown, err)
	}
	if g == "" {
		return &o, nil
	}
	gid, number, err := parseID(g)
	if err != nil {
		return nil, fmt.Errorf("reading --chown=%s: %w", r.Chown, err)
	}
	if !number {
		if gid, err = r.groupByName(g); o.forgive(err, o.gid) != nil {
			return nil, fmt.Errorf("looking up --chown=%s: %w", r.Chown, err)
		}
		if err != nil {
			gid = o.gid
		}
	}
	o.gid = gid
	return &o, nil
}

// forgive takes note of a name that nobody has, for which id is used, and returns any other error.
func (o *owner) forgive(err error, id int) error {
	if !errors.Is(err, errNobody) {
		return err
	}
	o.unknown = append(o.unknown, fmt.Sprintf("%s: %d is used", err, id))
	return nil
}

// parseID reads a number, or "root" (which is also what nothing means), which needs no looking up. Anything else is a name.
func parseID(s string) (id int, number bool, err error) {
	if s == "root" || s == "" {
		return 0, true, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0, false, nil
	}
	if err != nil || n < 0 || n > math.MaxInt32 {
		return 0, false, fmt.Errorf("the id %s is not between 0 and %d", s, math.MaxInt32)
	}
	return int(n), true, nil
}

func (r Request) userByName(name string) (uid, gid int, err error) {
	f, err := r.userFile("etc/passwd", "user", name)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	users, err := user.ParsePasswdFilter(f, func(u user.User) bool { return u.Name == name })
	if err != nil {
		return 0, 0, fmt.Errorf("reading /etc/passwd: %w", err)
	}
	if len(users) == 0 {
		return 0, 0, fmt.Errorf("%w user %q in /etc/passwd", errNobody, name)
	}
	return users[0].Uid, users[0].Gid, checkID("/etc/passwd", users[0].Uid, users[0].Gid)
}

func (r Request) groupByName(name string) (int, error) {
	f, err := r.userFile("etc/group", "group", name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	groups, err := user.ParseGroupFilter(f, func(g user.Group) bool { return g.Name == name })
	if err != nil {
		return 0, fmt.Errorf("reading /etc/group: %w", err)
	}
	if len(groups) == 0 {
		return 0, fmt.Errorf("%w group %q in /etc/group", errNobody, name)
	}
	return groups[0].Gid, checkID("/etc/group", groups[0].Gid)
}

func checkID(file string, ids ...int) error {
	for _, id := range ids {
		if id < 0 || id > math.MaxInt32 {
			return fmt.Errorf("reading %s: the id %d is not between 0 and %d", file, id, math.MaxInt32)
		}
	}
	return nil
}

// userFile opens a user file of the stage: a regular file, through symlinks inside the root.
func (r Request) userFile(name, kind, who string) (io.ReadCloser, error) {
	if r.Independent() {
		return nil, fmt.Errorf("with --link only numbers can be used, the %s %q cannot be looked up", kind, who)
	}
	missing := fmt.Errorf("%w %s %q: the stage has no /%s", errNobody, kind, who, name)
	if r.Stage == nil {
		return nil, missing
	}
	p, err := layer.Resolve(r.Stage, name)
	if err != nil {
		return nil, err
	}
	e, err := r.Stage.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if e.Type != layer.File {
		return nil, fmt.Errorf("reading /%s: not a regular file", name)
	}
	if e.Size > maxUserFile {
		return nil, fmt.Errorf("reading /%s: %d bytes are more than the %d allowed", name, e.Size, maxUserFile)
	}
	f, err := r.Stage.Open(p)
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", name, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxUserFile), f}, nil
}
