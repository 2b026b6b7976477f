package copy

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
)

const passwd = "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"
const group = "root:x:0:\nwww:x:33:app\n"

// users adds the user files to a tree; their content has spaces and newlines, which the syntax of tree has not.
func users(m *memTree) *memTree {
	for name, data := range map[string]string{"etc/passwd": passwd, "etc/group": group} {
		m.entries["etc"] = layer.Entry{Path: "etc", Type: layer.Dir, Mode: 0o755, ModTime: epoch}
		m.entries[name] = layer.Entry{Path: name, Type: layer.File, Mode: 0o644, Size: int64(len(data)), ModTime: epoch}
		m.data[name] = []byte(data)
	}
	return m
}

type copyCase struct {
	name    string
	src     []string // lines of the source tree
	stage   []string // lines of the stage; nil is scratch
	paths   string   // sources, separated by spaces
	dest    string
	set     func(*Request)
	want    string // lines of the result
	wantErr string
}

func (c copyCase) request(t *testing.T) Request {
	t.Helper()
	r := Request{Dest: c.dest, Time: epoch}
	src := tree(t, c.src...)
	for _, p := range strings.Fields(c.paths) {
		r.Sources = append(r.Sources, Source{Tree: src, Path: p})
	}
	if c.stage != nil {
		r.Stage = users(tree(t, c.stage...))
	}
	if c.set != nil {
		c.set(&r)
	}
	return r
}

func runCases(t *testing.T, cases []copyCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			res, err := Entries(context.Background(), c.request(t))
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Fatalf("error %v, want one with %q", err, c.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer res.Close()
			want := strings.Join(strings.Fields(strings.ReplaceAll(c.want, " ", "\x00")), "\n")
			want = strings.ReplaceAll(want, "\x00", " ")
			if got := show(t, itemsOf(t, res)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func chown(s string) func(*Request)     { return func(r *Request) { r.Chown = s } }
func withChmod(s string) func(*Request) { return func(r *Request) { r.Chmod = s } }
func excl(ps ...string) func(*Request)  { return func(r *Request) { r.Exclude = ps } }
func parentsFlag() func(*Request)       { return func(r *Request) { r.Parents = true } }
func plain(r *Request)                  { r.Sources[0].Plain = true }
func linkFlag(r *Request)               { r.Link = true }

func TestDestination(t *testing.T) {
	runCases(t, []copyCase{
		{name: "file to name", src: []string{"a=1"}, paths: "a", dest: "/b", want: "b=1"},
		{name: "file to directory by slash", src: []string{"a=1"}, paths: "a", dest: "/b/", want: "b/\nb/a=1"},
		{name: "file to existing directory", src: []string{"a=1"}, stage: []string{"b/ 0700 5:6"}, paths: "a", dest: "/b",
			want: "b/ 0700 5:6\nb/a=1"},
		{name: "file to root", src: []string{"a=1"}, paths: "a", dest: "/", want: "a=1"},
		{name: "parents are made", src: []string{"a=1"}, paths: "a", dest: "/x/y/z", want: "x/\nx/y/\nx/y/z=1"},
		{name: "directory gives its contents", src: []string{"d/a=1", "d/e/ 0700", "d/e/b=2"}, paths: "d", dest: "/t",
			want: "t/\nt/a=1\nt/e/ 0700\nt/e/b=2"},
		{name: "directory with slash or dot is the same", src: []string{"d/a=1"}, paths: "d/ d/.", dest: "/t/", want: "t/\nt/a=1"},
		{name: "existing destination keeps owner and mode", src: []string{"d/ 0700", "d/a=1"}, stage: []string{"tmp/ 1777 3:4"},
			paths: "d", dest: "/tmp", want: "tmp/ 1777 3:4\ntmp/a=1"},
		{name: "existing directories below take the source's", src: []string{"d/s/ 0700 7:8", "d/s/a=1"},
			stage: []string{"t/ 0711", "t/s/ 0755 1:2"}, paths: "d", dest: "/t", want: "t/ 0711\nt/s/ 0700 7:8\nt/s/a=1"},
		{name: "parents of the stage come along as they are", src: []string{"a=1"}, stage: []string{"x/ 0750 1:1", "x/y/ 0711 2:2"},
			paths: "a", dest: "/x/y/a", want: "x/ 0750 1:1\nx/y/ 0711 2:2\nx/y/a=1"},
		{name: "file over directory", src: []string{"d/a=1"}, stage: []string{"t/a/x=1"}, paths: "d", dest: "/t",
			wantErr: "cannot replace the directory"},
		{name: "directory over file", src: []string{"d/a/x=1"}, stage: []string{"t/a=1"}, paths: "d", dest: "/t",
			wantErr: "cannot copy to non-directory"},
		{name: "directory to a file", src: []string{"d/a=1"}, stage: []string{"t=1"}, paths: "d", dest: "/t",
			wantErr: "cannot copy to non-directory"},
		{name: "file below a file", src: []string{"a=1"}, stage: []string{"t=1"}, paths: "a", dest: "/t/a", wantErr: "not a directory"},
		{name: "dotdot stops at the root of the source", src: []string{"a=1"}, paths: "../../a", dest: "/b", want: "b=1"},
		{name: "several files to one name", src: []string{"a=1", "b=2"}, paths: "a b", dest: "/c", want: "c=2"},
		{name: "pattern of several to one name", src: []string{"a1=1", "a2=2"}, paths: "a*", dest: "/c", want: "c=2"},
		{name: "several files to an existing directory", src: []string{"a=1", "b=2"}, stage: []string{"c/"}, paths: "a b", dest: "/c",
			want: "c/\nc/a=1\nc/b=2"},
		{name: "several files of one name to a directory", src: []string{"a/f=1", "b/f=2"}, paths: "a/f b/f", dest: "/c/", want: "c/\nc/f=2"},
		{name: "the same file twice", src: []string{"a=1"}, paths: "a a", dest: "/c", want: "c=1"},
		{name: "later source wins in a directory", src: []string{"x/f=1", "y/f=2"}, paths: "x y", dest: "/c/", want: "c/\nc/f=2"},
		{name: "symlink destination is followed", src: []string{"a=1"}, stage: []string{"l->../r/s", "r/s/ 0711"}, paths: "a", dest: "/l/",
			want: "r/\nr/s/ 0711\nr/s/a=1"},
		{name: "dangling symlink destination is made", src: []string{"a=1"}, stage: []string{"l->/r/s"}, paths: "a", dest: "/l/",
			want: "r/\nr/s/\nr/s/a=1"},
		{name: "symlink to a file is written through", src: []string{"a=1"}, stage: []string{"l->f", "f=0"}, paths: "a", dest: "/l", want: "f=1"},
		{name: "symlink in a directory is replaced", src: []string{"a=1"}, stage: []string{"d/a->../f", "f=0"}, paths: "a", dest: "/d/",
			want: "d/\nd/a=1"},
		{name: "symlink loop", src: []string{"a=1"}, stage: []string{"l->l"}, paths: "a", dest: "/l/", wantErr: "resolving"},
		{name: "git tree to a new place takes its root along", src: []string{"a=1"}, paths: ".", dest: "/t", set: plain, want: "t/\nt/a=1"},
	})
}

func TestSources(t *testing.T) {
	links := []string{"f=1", "d/g=2", "lf->f", "ld->d", "labs->/d/g", "lup->../../f", "gone->nothing", "sub/l->../f"}
	runCases(t, []copyCase{
		{name: "named symlink is followed", src: links, paths: "lf", dest: "/x/", want: "x/\nx/lf=1"},
		{name: "named symlink to directory is followed", src: links, paths: "ld", dest: "/x", want: "x/\nx/g=2"},
		{name: "through a symlink", src: links, paths: "ld/g", dest: "/", want: "g=2"},
		{name: "absolute symlink counts from the root", src: links, paths: "labs", dest: "/", want: "labs=2"},
		{name: "symlink above the root stops there", src: links, paths: "lup", dest: "/", want: "lup=1"},
		{name: "dangling symlink by name", src: links, paths: "gone", dest: "/", wantErr: `"/gone": not found`},
		{name: "symlinks inside a directory stay", src: links, paths: "sub", dest: "/x", want: "x/\nx/l->../f"},
		{name: "matched symlinks are followed", src: links, paths: "l[f]", dest: "/x/", want: "x/\nx/lf=1"},
		{name: "pattern", src: []string{"a.go=1", "b.go=2", "c.c=3"}, paths: "*.go", dest: "/x/", want: "x/\nx/a.go=1\nx/b.go=2"},
		{name: "pattern over directories", src: []string{"a/x/f=1", "b/x/g=2", "b/y/h=3"}, paths: "*/x", dest: "/x/", want: "x/\nx/f=1\nx/g=2"},
		{name: "star does not cross a slash", src: []string{"a/b.go=1", "c.go=2"}, paths: "*.go", dest: "/x/", want: "x/\nx/c.go=2"},
		{name: "bracket escape", src: []string{"a[0].txt=1", "a0.txt=2"}, paths: "a[[]0].txt", dest: "/x/", want: "x/\nx/a[0].txt=1"},
		{name: "backslash escape", src: []string{`a*=1`, "ab=2"}, paths: `a\*`, dest: "/x/", want: "x/\nx/a*=1"},
		{name: "no match is nothing", src: []string{"a=1"}, paths: "a nope*", dest: "/", want: "a=1"},
		{name: "bad pattern", src: []string{"a=1"}, paths: "[", dest: "/", wantErr: "syntax error in pattern"},
		{name: "missing", src: []string{"foo=1"}, paths: "nope", dest: "/", wantErr: `"/nope": not found`},
		{name: "missing with a hint", src: []string{"src/main.go=1"}, paths: "src/mian.go", dest: "/", wantErr: `did you mean "/src/main.go"?`},
		{name: "missing directory of a pattern", src: []string{"a=1"}, paths: "nope/*", dest: "/", wantErr: `"/nope": not found`},
		{name: "special modes and capabilities", src: []string{"s=1 4755 +security.capability=cap +user.x=y", "d/ 3777"}, paths: ".", dest: "/x",
			want: "x/\nx/d/ 3777\nx/s=1 4755 +security.capability=cap"},
		{name: "owners are kept", src: []string{"d/ 1:2", "d/f=1 3:4"}, paths: ".", dest: "/x", want: "x/\nx/d/ 1:2\nx/d/f=1 3:4"},
		{name: "devices and fifos", src: []string{"dev/null!c1:3", "dev/sda!b8:0", "p!p"}, paths: ".", dest: "/x",
			want: "x/\nx/dev/\nx/dev/null!c1:3\nx/dev/sda!b8:0\nx/p!p"},
		{name: "whiteout device", src: []string{"w!c0:0"}, paths: ".", dest: "/x", wantErr: "removed file"},
		{name: "hard links stay links", src: []string{"a=1 #1", "b/c=1 #1", "d=1 #2"}, paths: ".", dest: "/x",
			want: "x/\nx/a=1\nx/b/\nx/b/c=>x/a\nx/d=1"},
		{name: "hard links of different matches are files", src: []string{"a=1 #1", "b=1 #1"}, paths: "a b", dest: "/x/",
			want: "x/\nx/a=1\nx/b=1"},
		{name: "hard links of sources that keep their parents", src: []string{"d/a=1 #1", "d/b=1 #1"}, paths: ". */a*", dest: "/x/",
			set: func(r *Request) { r.Parents = true }, want: "x/\nx/d/\nx/d/a=1\nx/d/b=>x/d/a"},
		{name: "plain symlink is copied", src: links, paths: "lf", dest: "/x/", set: plain, want: "x/\nx/lf->f"},
	})
}

func TestOwnerAndMode(t *testing.T) {
	src := []string{"d/ 0700", "d/f=1 0640", "d/l->f", "d/x=2 4755"}
	runCases(t, []copyCase{
		{name: "numbers", src: src, paths: "d", dest: "/p/q", set: chown("5:6"),
			want: "p/ 5:6\np/q/ 5:6\np/q/f=1 0640 5:6\np/q/l->f 5:6\np/q/x=2 4755 5:6"},
		{name: "one number is the group too", src: src, paths: "d/f", dest: "/f", set: chown("5"), want: "f=1 0640 5:5"},
		{name: "empty group", src: src, paths: "d/f", dest: "/f", set: chown("5:"), want: "f=1 0640 5:5"},
		{name: "name", src: src, stage: []string{}, paths: "d/f", dest: "/f", set: chown("app"), want: "f=1 0640 1000:1001"},
		{name: "name and group", src: src, stage: []string{}, paths: "d/f", dest: "/f", set: chown("app:www"), want: "f=1 0640 1000:33"},
		{name: "number and group", src: src, stage: []string{}, paths: "d/f", dest: "/f", set: chown("7:www"), want: "f=1 0640 7:33"},
		{name: "root needs no file", src: src, paths: "d/f", dest: "/f", set: chown("root:root"), want: "f=1 0640"},
		{name: "nobody has the name", src: src, stage: []string{}, paths: "d/f", dest: "/f", set: chown("bob"), want: "f=1 0640"},
		{name: "nobody has the name beside a group", src: src, stage: []string{}, paths: "d/f", dest: "/f", set: chown("bob:www"), want: "f=1 0640 0:33"},
		{name: "no group of the name", src: src, stage: []string{}, paths: "d/f", dest: "/f", set: chown("app:bob"), want: "f=1 0640 1000:1001"},
		{name: "no user file", src: src, paths: "d/f", dest: "/f", set: chown("app"), want: "f=1 0640"},
		{name: "number too large", src: src, paths: "d/f", dest: "/f", set: chown("4294967296"), wantErr: "not between"},
		{name: "negative", src: src, paths: "d/f", dest: "/f", set: chown("-1"), wantErr: "not between"},
		{name: "existing directory is not chowned", src: src, stage: []string{"t/ 9:9"}, paths: "d", dest: "/t", set: chown("5:6"),
			want: "t/ 9:9\nt/f=1 0640 5:6\nt/l->f 5:6\nt/x=2 4755 5:6"},
		{name: "octal applies to made parents", src: src, paths: "d", dest: "/p/q/", set: withChmod("770"),
			want: "p/ 0770\np/q/ 0770\np/q/f=1 0770\np/q/l->f\np/q/x=2 0770"},
		{name: "octal with special bits", src: src, paths: "d/f", dest: "/f", set: withChmod("4755"), want: "f=1 4755"},
		{name: "octal zero", src: src, paths: "d/f", dest: "/f", set: withChmod("0"), want: "f=1 0000"},
		{name: "symbolic", src: src, paths: "d", dest: "/q", set: withChmod("u=rwX,go=rX"), want: "q/\nq/f=1\nq/l->f\nq/x=2 0755"},
		{name: "symbolic add", src: src, paths: "d/f", dest: "/f", set: withChmod("+x"), want: "f=1 0751"},
		{name: "octal too large", src: src, paths: "d/f", dest: "/f", set: withChmod("10000"), wantErr: "between 0 and 07777"},
		{name: "neither", src: src, paths: "d/f", dest: "/f", set: withChmod("64a"), wantErr: "--chmod=64a"},
		{name: "chmod on directories below", src: []string{"d/s/ 0700", "d/s/f=1"}, paths: "d", dest: "/q", set: withChmod("go=rX"),
			want: "q/\nq/s/\nq/s/f=1"},
	})
}

func TestFilters(t *testing.T) {
	deep := []string{"a/b/c/f=1 0600", "a/b/ 0700", "a/b/g=2", "a/h=3", "z=4"}
	two := []string{"t/a/b/c/d/e/bay=1", "t/a/b2/c/d/e/bar=2"}
	runCases(t, []copyCase{
		{name: "parents", src: deep, paths: "a/b/g", dest: "/o/", set: parentsFlag(), want: "o/\no/a/\no/a/b/ 0700\no/a/b/g=2"},
		{name: "parents of a directory", src: deep, paths: "/a/b", dest: "/o/", set: parentsFlag(),
			want: "o/\no/a/\no/a/b/ 0700\no/a/b/c/\no/a/b/c/f=1 0600\no/a/b/g=2"},
		{name: "parents with a pivot", src: deep, paths: "a/./b/c", dest: "/o/", set: parentsFlag(), want: "o/\no/b/ 0700\no/b/c/\no/b/c/f=1 0600"},
		{name: "parents with stars", src: deep, paths: "**/g", dest: "/o/", set: parentsFlag(), want: "o/\no/a/\no/a/b/ 0700\no/a/b/g=2"},
		{name: "parents, several under patterns", src: two, paths: "/t/a/b*/./c/**/e", dest: "/o/", set: parentsFlag(),
			want: "o/\no/c/\no/c/d/\no/c/d/e/\no/c/d/e/bar=2\no/c/d/e/bay=1"},
		{name: "parents of what is missing", src: deep, paths: "a/nope", dest: "/o/", set: parentsFlag(), wantErr: `"/a/nope": not found`},
		{name: "parents of a pattern without match", src: deep, paths: "a/n*pe", dest: "/o/", set: parentsFlag(), want: "o/"},
		{name: "parents to the root", src: deep, paths: "a/b/g", dest: "/", set: parentsFlag(), want: "a/\na/b/ 0700\na/b/g=2"},
		{name: "exclude", src: deep, paths: "a", dest: "/o", set: excl("b/c", "h"), want: "o/\no/b/ 0700\no/b/g=2"},
		{name: "exclude anywhere", src: deep, paths: ".", dest: "/o", set: excl("**/f", "z"), want: "o/\no/a/\no/a/b/ 0700\no/a/b/c/\no/a/b/g=2\no/a/h=3"},
		{name: "exclude and include again", src: deep, paths: ".", dest: "/o", set: excl("*", "!a/b/g"), want: "o/\no/a/\no/a/b/ 0700\no/a/b/g=2"},
		{name: "exclude does not apply to the match itself", src: deep, paths: "z", dest: "/o/", set: excl("z"), want: "o/\no/z=4"},
		{name: "exclude everything", src: deep, paths: "a", dest: "/o", set: excl("**"), want: "o/"},
		{name: "bad exclude", src: deep, paths: "a", dest: "/o", set: excl("["), wantErr: "--exclude"},
		{name: "parents and exclude", src: deep, paths: "a", dest: "/o/", set: func(r *Request) { r.Parents = true; r.Exclude = []string{"**/c"} },
			want: "o/\no/a/\no/a/b/ 0700\no/a/b/g=2\no/a/h=3"},
	})
}

func TestUnchanged(t *testing.T) {
	runCases(t, []copyCase{
		{name: "same file", src: []string{"a=1"}, stage: []string{"d/a=1"}, paths: "a", dest: "/d/", want: ""},
		{name: "same tree", src: []string{"s/t/f=1"}, stage: []string{"d/t/f=1"}, paths: "s", dest: "/d", want: ""},
		{name: "other content", src: []string{"a=2"}, stage: []string{"d/a=1"}, paths: "a", dest: "/d/", want: "d/\nd/a=2"},
		{name: "other time", src: []string{"a=1 @5"}, stage: []string{"d/a=1"}, paths: "a", dest: "/d/", want: "d/\nd/a=1"},
		{name: "other mode", src: []string{"a=1 0600"}, stage: []string{"d/a=1"}, paths: "a", dest: "/d/", want: "d/\nd/a=1 0600"},
		{name: "one of several", src: []string{"s/a=1", "s/b=2"}, stage: []string{"d/a=1"}, paths: "s", dest: "/d", want: "d/\nd/b=2"},
		{name: "link does not look", src: []string{"a=1"}, stage: []string{"d/ 0700", "d/a=1"}, paths: "a", dest: "/d/", set: linkFlag,
			want: "d/\nd/a=1"},
		{name: "link does not follow", src: []string{"a=1"}, stage: []string{"l->d", "d/"}, paths: "a", dest: "/l/", set: linkFlag,
			want: "l/\nl/a=1"},
		{name: "link with names", src: []string{"a=1"}, stage: []string{}, paths: "a", dest: "/a",
			set: func(r *Request) { r.Link = true; r.Chown = "app" }, wantErr: "--link"},
		{name: "link with chmod depends on the stage", src: []string{"a=1"}, stage: []string{"l->d", "d/"}, paths: "a", dest: "/l/",
			set: func(r *Request) { r.Link = true; r.Chmod = "600" }, want: "d/\nd/a=1 0600"},
	})
}

// Times: files and directories keep the source's, what is made has the time of the step, and so has a directory of the stage that
// something is put into; those further up stay as they are.
func TestTimes(t *testing.T) {
	c := copyCase{src: []string{"s/ @3", "s/d/ @4", "s/d/f=1 @5", "s/l->x @6"}, stage: []string{"a/ @1", "a/b/ @1"}, paths: "s", dest: "/a/b/n/"}
	r := c.request(t)
	r.Sources = append(r.Sources, Source{Tree: tree(t, "g=1 @7"), Path: "g"})
	r.Time = time.Unix(100, 0)
	res, err := Entries(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	want := map[string]int64{"a": 1, "a/b": 100, "a/b/n": 3, "a/b/n/d": 4, "a/b/n/d/f": 5, "a/b/n/l": 6, "a/b/n/g": 7}
	for _, it := range itemsOf(t, res) {
		if w, ok := want[it.Path]; !ok || it.ModTime.Unix() != w {
			t.Errorf("%s has time %d, want %d", it.Path, it.ModTime.Unix(), w)
		}
	}
	if len(itemsOf(t, res)) != len(want) {
		t.Errorf("%d entries, want %d", len(itemsOf(t, res)), len(want))
	}
}

func TestNotFoundIsNotExist(t *testing.T) {
	c := copyCase{src: []string{"a=1"}, paths: "b", dest: "/"}
	_, err := Entries(context.Background(), c.request(t))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is no fs.ErrNotExist", err)
	}
}

// hider is a tree whose ignore file hides a name.
type hider struct{ *memTree }

func (hider) Ignored(name string) (string, bool) { return ".dockerignore", name == "secret" }

func TestNotFoundNamesIgnoreFile(t *testing.T) {
	r := Request{Dest: "/", Sources: []Source{{Tree: hider{tree(t, "a=1")}, Path: "secret"}}}
	_, err := Entries(context.Background(), r)
	if err == nil || !strings.Contains(err.Error(), "excluded by .dockerignore") {
		t.Errorf("error %v does not name the ignore file", err)
	}
}

func TestDirectory(t *testing.T) {
	stage := users(tree(t, "x/ 0700 1:1", "l->x", "f=1"))
	for _, c := range []struct{ dir, who, want, wantErr string }{
		{dir: "/x", want: ""},
		{dir: "/x/y/z", who: "app", want: "x/ 0700 1:1\nx/y/ 1000:1001\nx/y/z/ 1000:1001"},
		{dir: "/l/y", want: "x/ 0700 1:1\nx/y/"},
		{dir: "/n", who: "bob", want: "n/"},
		{dir: "/f/x", wantErr: "not a directory"},
		{dir: "/f", wantErr: "not a directory"},
		{dir: "/", want: ""},
	} {
		items, err := Directory(context.Background(), stage, c.dir, c.who, epoch)
		if c.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%s: error %v, want %q", c.dir, err, c.wantErr)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := show(t, items); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.dir, got, c.want)
		}
	}
}
