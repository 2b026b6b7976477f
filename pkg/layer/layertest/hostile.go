package layertest

import (
	"archive/tar"
	"fmt"
	"strings"
)

// Verdict is what must become of a case.
type Verdict int

const (
	// Harmless: refusing is as good as staying inside.
	Harmless Verdict = iota
	// Refused: the layer is not taken.
	Refused
	// Shown: the files are those of Case.Files.
	Shown
)

// MaxBytes and MaxEntries are limits that the cases of row A8 go beyond and no other does.
const (
	MaxBytes   = 16 << 20
	MaxEntries = 300
)

// Case is a layer that attacks, over another that may prepare it.
type Case struct {
	// Row is of the tables in docs/SECURITY.md.
	Row, Name string
	// Lower is nil where there is no layer below.
	Lower, Layer []Entry
	Verdict      Verdict
	// Files are the regular files and their content, sorted by directory: "a/b=content c=".
	Files string
}

// Climbing are names that lead to the outside when they are joined carelessly.
func Climbing() []string {
	return []string{"../x", "/../x", "a/../../x", "../../etc/x", "//x", "/etc/x", "a/./../x", "..//..//x", "\\..\\x", "./x/", "x/."}
}

// Root are names of the root.
func Root() []string { return []string{"..", "", ".", "/", "a/..", "./", "/.."} }

// Hostile are the known attacks.
func Hostile() []Case {
	var out []Case
	for _, rows := range [][]Case{climbing(), throughSymlinks(), root(), breakouts(), hardlinks(), bombs(), devices(), parsers()} {
		out = append(out, rows...)
	}
	return out
}

func climbing() (out []Case) {
	for _, name := range Climbing() {
		file := strings.TrimSuffix(name, "/")
		for what, e := range map[string]Entry{"file": File(file, "mine"), "dir": Dir(name), "link": Symlink(file, "/etc/passwd"), "fifo": Of(file, tar.TypeFifo)} {
			out = append(out, Case{Row: "A1", Name: what + " " + name, Layer: []Entry{e}})
		}
	}
	return out
}

// linkChain is n symlinks that end at target.
func linkChain(n int, target string) []Entry {
	var out []Entry
	for i := range n {
		next := fmt.Sprintf("l%d", i+1)
		if i == n-1 {
			next = target
		}
		out = append(out, Symlink(fmt.Sprintf("l%d", i), next))
	}
	return out
}

// throughSymlinks write, link, remove and change through symlinks of the same layer and of the one below.
func throughSymlinks() (out []Case) {
	closed := Dir("l0/dir")
	closed.Mode = 0
	owned := Dir("l0/dir")
	owned.Uid, owned.Gid = 7, 7
	attacks := map[string][]Entry{
		"file":      {File("l0/x", "mine")},
		"dir":       {Dir("l0/dir"), File("l0/dir/x", "mine")},
		"implicit":  {File("l0/dir/deep/x", "mine")},
		"chmod":     {closed},
		"chown":     {owned},
		"over link": {File("l0", "mine")},
		"dir over":  {Dir("l0"), File("l0/x", "mine")},
		"whiteout":  {File("l0/.wh.x", ""), File("l0/.wh.passwd", "")},
		"opaque":    {File("l0/.wh..wh..opq", "")},
		"hardlink":  {File("own", ""), Hardlink("l0/x", "own"), Hardlink("l0/y", "l0/x")},
		"from link": {Hardlink("stolen", "l0/passwd")},
		"symlink":   {Symlink("l0/x", "/etc/passwd")},
		"fifo":      {Of("l0/x", tar.TypeFifo)},
		"device":    {Device("l0/x", tar.TypeChar, 1, 3)},
	}
	for _, target := range []string{"/etc", "..", "../..", "/..", "../../etc", "../outside/dir", ".", "/", "l0", "../dir/link", "nowhere/../.."} {
		for _, n := range []int{1, 40} {
			for name, attack := range attacks {
				if n > 1 && name != "file" && name != "whiteout" && name != "from link" {
					continue
				}
				name := fmt.Sprintf("%s to %s after %d", name, target, n)
				chain := linkChain(n, target)
				out = append(out, Case{Row: "A2", Name: name + " in one layer", Layer: append(chain[:len(chain):len(chain)], attack...)},
					Case{Row: "A2", Name: name + " in the next layer", Lower: chain, Layer: attack})
			}
		}
	}
	return out
}

func root() (out []Case) {
	for _, name := range Root() {
		for _, typ := range []byte{tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo} {
			e := Of(strings.TrimSuffix(name, "/"), typ)
			e.Linkname, e.Devmajor = "/etc", 1
			if name == "/" {
				e.Name = "//."
			}
			out = append(out, Case{Row: "A4", Name: fmt.Sprintf("%q of type %c", name, typ), Layer: []Entry{File("f", ""), e}, Verdict: Refused})
		}
	}
	return out
}

// breakouts are the classes of containerd's TestBreakouts (pkg/archive) and umoci's scoping tests.
func breakouts() []Case {
	etc := []Entry{Dir("etc"), File("etc/passwd", "inside")}
	with := func(more ...Entry) []Entry { return append(append([]Entry{}, etc...), more...) }
	const inside = "etc/passwd=inside"
	return []Case{
		{"A5", "absolute link", nil, []Entry{Dir("etc"), Symlink("localetc", "/etc"), File("/localetc/f", "x")}, Shown, "etc/f=x"},
		{"A5", "up and out", nil, []Entry{Dir("etc"), Dir("dummy"), Symlink("localetc", "/dummy/../etc"), File("/localetc/f", "x")}, Shown, "etc/f=x"},
		{"A5", "two absolute", nil, []Entry{Dir("etc"), Dir("dummy"), Symlink("/dummy/etc", "/etc"), Symlink("localetc", "/dummy/etc"), File("localetc/f", "x")}, Shown, "etc/f=x"},
		{"A5", "emptied", nil, with(Symlink("localetc", "/etc"), File("localetc/passwd", "")), Shown, "etc/passwd="},
		{"A5", "hard link via link", nil, with(Dir("b"), Symlink("b/d1", "../../etc"), Hardlink("b/mine", "/b/d1/passwd")), Shown, "b/mine=inside etc/passwd=inside"},
		{"A5", "hard link down and out", nil, with(Dir("b"), Dir("down"), Symlink("b/d1", "../down/../../etc"), Hardlink("b/mine", "/b/d1/passwd")), Shown, "b/mine=inside etc/passwd=inside"},
		{"A5", "hard link far up", nil, with(Symlink("localetc", "../../../../../etc"), Hardlink("mine", "/localetc/passwd")), Shown, "etc/passwd=inside mine=inside"},
		{"A5", "hard link relative", nil, with(Hardlink("mine", "../../../../etc/passwd")), Shown, "etc/passwd=inside mine=inside"},
		{"A5", "hard link absolute", nil, with(Hardlink("mine", "/etc/passwd")), Shown, "etc/passwd=inside mine=inside"},
		{"A5", "link named ..", nil, with(Symlink("..", "/etc/")), Refused, ""},
		{"A5", "link without name", nil, with(Symlink("", "/etc/")), Refused, ""},
		{"A5", "link named sub/..", nil, with(Symlink("localetc/sub/..", "/etc/"), Hardlink("localetc/mine", "/etc/passwd")), Shown, "etc/mine=inside etc/passwd=inside"},
		{"A5", "link over dir", []Entry{Dir("etc"), File("etc/passwd", "inside"), Dir("localetc")}, with(Symlink("localetc", "/etc"), Hardlink("localetc/mine", "/etc/passwd")), Shown, "etc/mine=inside etc/passwd=inside"},
		{"A5", "dir over link", with(Symlink("localetc", "/etc")), []Entry{Dir("localetc"), File("localetc/passwd", "other")}, Shown, "etc/passwd=inside localetc/passwd=other"},
		{"A5", "hard link to below", etc, []Entry{Hardlink("mine", "/etc/passwd")}, Refused, ""},
		{"A5", "whiteout root parent", etc, []Entry{File(".wh...", "")}, Refused, ""},
		{"A5", "whiteout parent", etc, []Entry{File("etc/.wh...", "")}, Refused, ""},
		{"A5", "whiteout root", etc, []Entry{File(".wh..", "")}, Refused, ""},
		{"A5", "whiteout self", etc, []Entry{File("etc/.wh..", "")}, Refused, ""},
		{"A5", "whiteout without name", etc, []Entry{File("etc/.wh.", "")}, Refused, ""},
		{"A5", "whiteout of link", with(Symlink("localetc", "/etc")), []Entry{File(".wh.localetc", "")}, Shown, inside},
		{"A5", "whiteout through link", with(File("etc/out", "x"), Symlink("localetc", "/etc")), []Entry{File("localetc/.wh.out", "")}, Shown, inside},
		{"A5", "whiteout is a directory", etc, []Entry{File(".wh.etc/f", "x")}, Shown, ".wh.etc/f=x etc/passwd=inside"},
		{"A5", "whiteout dead link", with(Symlink("localetc", "/dne")), []Entry{File("localetc/.wh.etc", "")}, Shown, inside},
		{"A5", "whiteout with dots", etc, []Entry{File("dne/../.wh.etc", "")}, Shown, ""},
		{"A5", "hard link to link", nil, with(Symlink("pl", "/etc/passwd"), Hardlink("mine", "/pl")), Shown, inside},
		{"A5", "hard link before target", nil, []Entry{Hardlink("mine", "/f"), File("f", "late")}, Refused, ""},
		{"A5", "hard link to itself", nil, []Entry{File("f", "x"), Hardlink("f", "f")}, Refused, ""},
		{"A5", "hard link to dir", nil, []Entry{Dir("d"), Hardlink("e", "d")}, Refused, ""},
		{"A5", "hard link to root", nil, []Entry{Hardlink("e", "/")}, Refused, ""},
		{"A5", "file as parent", nil, []Entry{File("f", "x"), File("f/g", "y")}, Refused, ""},
		{"A5", "file below as parent", []Entry{File("f", "x")}, []Entry{File("f/g", "y")}, Refused, ""},
		{"A5", "unknown type", nil, []Entry{Of("f", 'Z')}, Refused, ""},
		{"A5", "link to nothing", nil, []Entry{Symlink("f", "")}, Refused, ""},
	}
}

func hardlinks() (out []Case) {
	for _, target := range []string{"passwd", "../../etc/passwd", "x", "link", "/proc/self/exe", "/etc/passwd", "../../../../../../../etc/passwd"} {
		out = append(out, Case{Row: "A6", Name: "to " + target, Layer: []Entry{Hardlink("stolen", target)}, Verdict: Refused})
	}
	return out
}

func bombs() []Case {
	var many []Entry
	for i := range MaxEntries + 1 {
		many = append(many, File(fmt.Sprint(i), ""))
	}
	attribute := File("f", "")
	attribute.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 65<<10)}
	zeros := strings.Repeat("\x00", MaxBytes/4)
	return []Case{
		{Row: "A8", Name: "one file", Layer: []Entry{File("bomb", strings.Repeat(zeros, 5))}, Verdict: Refused},
		{Row: "A8", Name: "several files", Layer: []Entry{File("a", zeros), File("b", zeros), File("c", zeros), File("d", zeros), File("e", "e")}, Verdict: Refused},
		{Row: "A8", Name: "entries", Layer: many, Verdict: Refused},
		{Row: "A8", Name: "long path", Layer: []Entry{File(strings.Repeat("n/", 2048)+"n", "")}, Verdict: Refused},
		{Row: "A8", Name: "long name", Layer: []Entry{File(strings.Repeat("n", 256), "")}, Verdict: Refused},
		{Row: "A8", Name: "long target", Layer: []Entry{Symlink("l", strings.Repeat("x", 4096))}, Verdict: Refused},
		{Row: "A8", Name: "big attribute", Layer: []Entry{attribute}, Verdict: Refused},
		{Row: "A8", Name: "link that grows", Layer: []Entry{Symlink("a", strings.Repeat("a/", 2000)), File("a/x", "")}, Verdict: Refused},
		{Row: "A8", Name: "links in a circle", Layer: []Entry{Symlink("a", "b"), Symlink("b", "a"), File("a/x", "")}, Verdict: Refused},
	}
}

func devices() (out []Case) {
	for name, e := range map[string]Entry{
		"device of a whiteout": Device("f", tar.TypeChar, 0, 0),
		"negative":             Device("f", tar.TypeBlock, -1, 0),
		"huge":                 Device("f", tar.TypeChar, 1<<20, 0),
	} {
		e.Format = tar.FormatGNU
		out = append(out, Case{Row: "A11", Name: name, Layer: []Entry{e}, Verdict: Refused})
	}
	lower := []Entry{Dir("a"), File("a/below", "x"), File("b", "below"), File("etc", "secret")}
	for _, ns := range []string{"user", "trusted"} {
		for k, v := range map[string]string{"opaque": "y", "redirect": "/etc", "metacopy": "", "origin": "x", "whiteout": "y", "upper": "z"} {
			dir, file := Dir("a"), File("b", "")
			dir.PAXRecords = map[string]string{"SCHILY.xattr." + ns + ".overlay." + k: v}
			file.PAXRecords = dir.PAXRecords
			out = append(out, Case{Row: "A11", Name: ns + ".overlay." + k, Lower: lower, Layer: []Entry{dir, file}, Verdict: Shown, Files: "a/below=x b= etc=secret"})
		}
	}
	setuid := File("su", "x")
	setuid.Mode, setuid.Uid = 0o6755, 0
	return append(out,
		Case{Row: "A11", Name: "setuid over a link", Lower: []Entry{Symlink("su", "/etc/passwd")}, Layer: []Entry{setuid}, Verdict: Shown, Files: "su=x"},
		Case{Row: "A11", Name: "disk", Layer: []Entry{Device("disk", tar.TypeBlock, 8, 0), Hardlink("again", "disk")}})
}

func parsers() []Case {
	deep := strings.TrimSuffix(strings.Repeat("d/", 100), "/")
	global := Entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "global"}}}
	return []Case{
		{Row: "A14", Name: "twice", Layer: []Entry{File("dup", "first"), Dir("dir"), File("dup", "last"), File("dir", "file")}, Verdict: Shown, Files: "dir=file dup=last"},
		{Row: "A14", Name: "case", Layer: []Entry{File("Case", "1"), File("case", "2")}, Verdict: Shown, Files: "Case=1 case=2"},
		{Row: "A14", Name: "deep", Layer: []Entry{File(deep+"/f", "deep")}, Verdict: Shown, Files: deep + "/f=deep"},
		{Row: "A14", Name: "control characters", Layer: []Entry{File("new\nline\x1b[31m", "esc")}, Verdict: Shown, Files: "new\nline\x1b[31m=esc"},
		{Row: "A14", Name: "global header", Layer: []Entry{global, File("after", "a")}, Verdict: Shown, Files: "after=a"},
		{Row: "A14", Name: "no UTF-8", Layer: []Entry{File("caf\xe9", "x")}, Verdict: Shown, Files: "caf\xe9=x"},
	}
}
