package language

import (
	"archive/tar"
	"fmt"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

func copyRows() []row {
	files := map[string]string{"a": "1", "b": "2", "d/x": "3", "d/e/y": "4", "with blank": "5"}
	return []row{
		{name: "file to a file", file: "FROM scratch\nCOPY a /o\n", files: files,
			want: []check{has("/o", "1"), mode("/o", 0o644), owner("/o", "0:0")}},
		{name: "file into a directory", file: "FROM scratch\nCOPY a /o/\n", files: files,
			want: []check{has("/o/a", "1"), mode("/o", 0o755)}},
		{name: "file into a directory that is there", file: "FROM {base}\nCOPY a /etc\n", files: files,
			want: []check{has("/etc/a", "1"), contains("/etc/passwd", "root")}},
		{name: "several files", file: "FROM scratch\nCOPY a b /o/\n", files: files,
			want: []check{has("/o/a", "1"), has("/o/b", "2")}},
		{name: "several files to what is no directory", file: "FROM scratch\nCOPY a b /o\n", files: files,
			shows: []string{`WARN: Copy: "/b" replaces "/a" at "/o", which does not end with "/"`}, want: []check{has("/o", "2")}},
		{name: "several files that match to one name", file: "FROM scratch\nCOPY ? /o\n", files: map[string]string{"a": "1", "b": "2"},
			args: []string{"--no-cache"}, shows: []string{`"/b" replaces "/a" at "/o", which does not end with "/"`}, want: []check{has("/o", "2")}},
		{name: "contents of a directory", file: "FROM scratch\nCOPY d /o\n", files: files,
			want: []check{has("/o/x", "3"), has("/o/e/y", "4"), lacks("/o/d")}},
		{name: "whole context", file: "FROM scratch\nCOPY . .\n", files: files, want: []check{has("/a", "1"), has("/d/e/y", "4")}},
		{name: "wildcards", file: "FROM scratch\nCOPY [ab] ? d/* /o/\n", files: files,
			want: []check{has("/o/a", "1"), has("/o/b", "2"), has("/o/x", "3"), has("/o/y", "4"), lacks("/o/with blank")}},
		{name: "wildcard that is escaped", file: "FROM scratch\nCOPY [[]a] /o/\n",
			files: map[string]string{"[a]": "1", "a": "2"}, want: []check{has("/o/[a]", "1"), lacks("/o/a")}},
		{name: "wildcard that finds nothing", file: "FROM scratch\nCOPY z* /o/\n", files: files, want: []check{lacks("/o/a")}},
		{name: "file that is not there", file: "FROM scratch\nCOPY nope /\n", files: files,
			fails: []string{`"/nope": not found`, "Dockerfile:2"}},
		{name: "JSON form", file: "FROM scratch\nCOPY [\"with blank\", \"/o p\"]\n", files: files, want: []check{has("/o p", "5")}},
		{name: "parents of the destination are made", file: "FROM scratch\nCOPY a /p/q/r/o\n", files: files,
			want: []check{has("/p/q/r/o", "1"), mode("/p/q", 0o755), owner("/p", "0:0")}},
		{name: "dots are cut off at the context", file: "FROM scratch\nCOPY ../../a /\n", files: files,
			want: []check{has("/a", "1")}},
		{name: "absolute sources are the context's", file: "FROM scratch\nCOPY /a /o\n", files: files,
			want: []check{has("/o", "1")}},
		{name: "modes", file: "FROM scratch\nCOPY . /\n", files: map[string]string{"x:0755": "1", "s:0600": "2"},
			setup: script("mkdir t; chmod 1777 t; touch u; chmod 4750 u"),
			want:  []check{mode("/x", 0o755), mode("/s", 0o600), mode("/t", 0o1777), mode("/u", 0o4750)}},
		{name: "modes with setuid and setgid and sticky", file: "FROM {base} AS s\nCOPY --chown=5:6 . /a/\nADD . /b/\nRUN chmod 6755 /bin/busybox; " +
			"mkdir -p -m 2775 /d/k; touch /d/f; chmod 1644 /d/f\nFROM scratch\nCOPY --from=s /a /a\nCOPY --from=s --chown=7:8 /a /c\n" +
			"COPY --from=s /b /b\nCOPY --from=s /d /d\nCOPY --from=s /bin/busybox /x\n",
			setup: script("touch u g t; chmod 4755 u; chmod 2750 g; chmod 1644 t"),
			want: []check{mode("/a/u", 0o4755), mode("/a/g", 0o2750), mode("/a/t", 0o1644), owner("/a/u", "5:6"), mode("/b/u", 0o4755),
				mode("/c/u", 0o4755), mode("/c/g", 0o2750), owner("/c/u", "7:8"), mode("/d", 0o755), mode("/d/k", 0o2775), mode("/d/f", 0o1644), mode("/x", 0o6755)}},
		{name: "owners of the context are not kept", file: "FROM scratch\nCOPY a /\n", files: files,
			setup: script("chown 5:6 a"), want: []check{owner("/a", "0:0")}},
		{name: "symlinks are copied as they are", file: "FROM scratch\nCOPY d /o\n", files: files,
			setup: script("ln -s x d/rel; ln -s /abs d/abs; ln -s nowhere d/dangling"),
			want:  []check{symlink("/o/rel", "x"), symlink("/o/abs", "/abs"), symlink("/o/dangling", "nowhere")}},
		{name: "symlink as source is followed", file: "FROM scratch\nCOPY l /o\nCOPY m /p\n", files: files,
			setup: script("ln -s a l; ln -s d m"), want: []check{has("/o", "1"), has("/p/x", "3")}},
		{name: "destination through a symlink", file: "FROM {base}\nRUN ln -s /var /l\nCOPY a /l/\n", files: files,
			want: []check{has("/var/a", "1"), symlink("/l", "/var")}},
		{name: "directory that is there keeps its mode and owner", file: "FROM {base}\nCOPY d /tmp\n", files: files,
			want: []check{mode("/tmp", 0o1777), has("/tmp/x", "3")}},
		{name: "file over a directory", file: "FROM {base}\nCOPY d /o/\nCOPY [\"a\", \"/o/e\"]\n", files: files,
			want: []check{has("/o/e/a", "1")}},
		{name: "directory over a file", file: "FROM scratch\nCOPY a /o/e\nCOPY d /o\n", files: files, fails: []string{"/o/e"}},
		{name: "hard links are one file",
			file:  "FROM {base}\nCOPY . /o/\nRUN [ /o/h -ef /o/i ] && echo same > /r || echo two > /r\n",
			setup: script("echo x > h; ln h i"), want: []check{has("/o/h", "x\n"), has("/o/i", "x\n")}},
		{name: "empty directory", file: "FROM scratch\nCOPY e /o\n", files: map[string]string{"e/": ""}, want: []check{dir("/o")}},
		{name: "socket is an empty file", file: "FROM scratch\nCOPY . /o/\nCOPY sock /p\n", files: files,
			setup: script("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'; chmod 640 sock"),
			want:  []check{has("/o/a", "1"), kind("/o/sock", tar.TypeReg), has("/p", ""), mode("/p", 0o640)}},
		{name: "unicode and blanks", file: "FROM scratch\nCOPY . /\n", files: map[string]string{"ü ☃": "1"},
			want: []check{has("/ü ☃", "1")}},
		{name: "from a stage keeps owner and mode and time",
			file: "FROM {base} AS s\n" +
				"RUN mkdir /d; echo 1 > /d/f; chown 5:6 /d/f; chmod 640 /d/f; touch -d @1000000000 /d/f\nFROM scratch\n" +
				"COPY --from=s /d /o\n",
			want: []check{owner("/o/f", "5:6"), mode("/o/f", 0o640), changed("/o/f", 1000000000)}},
		{name: "from a stage without what was removed there", file: "FROM {base} AS s\nRUN mkdir -p /d/e /d/o; touch /d/a /d/b /d/e/c /d/o/old\n" +
			"RUN rm -r /d/a /d/e /d/o; mkdir /d/o; touch /d/o/new\nFROM scratch\nCOPY --from=s /d /r\n",
			want: []check{has("/r/b", ""), has("/r/o/new", ""), lacks("/r/a", "/r/e", "/r/e/c", "/r/o/old", "/r/.wh.a", "/r/o/.wh..wh..opq")}},
		{name: "from a stage keeps hard links and capabilities",
			file: "FROM scratch AS s\nADD caps.tar /\nFROM scratch\nCOPY --from=s /d /o\n",
			setup: script("mkdir -p s/d; echo x > s/d/h; ln s/d/h s/d/i; cp s/d/h s/d/c; setcap cap_net_bind_service+ep " +
				"s/d/c; tar --xattrs --xattrs-include='*' -C s -cf caps.tar .; rm -r s"),
			want: []check{func(t *testing.T, im *image) {
				t.Helper()
				if im.must(t, "/o/h").Typeflag != tar.TypeLink && im.must(t, "/o/i").Typeflag != tar.TypeLink {
					t.Error("/o/h and /o/i are two files")
				}
				if im.must(t, "/o/c").PAXRecords["SCHILY.xattr.security.capability"] == "" {
					t.Error("/o/c has no capabilities")
				}
			}}},
		{name: "from an image", file: "FROM scratch\nCOPY --from={base} /etc/group /g\n",
			want: []check{contains("/g", "root:x:0:")}},
		{name: "URL is not for COPY", file: "FROM scratch\nCOPY http://example.com/x /\n",
			fails: []string{"source can't be a URL for COPY", "Dockerfile:2"}},
		{name: "is cached by content and not by time",
			file: "FROM {base}\nCOPY a /\nRUN head -c 16 /dev/urandom | od -x > /o\n", files: files,
			after: func(t *testing.T, p *place, ims []*image) {
				script("touch -d '2001-01-01' a")(t, p)
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x"})[0])
				p.write("a", "changed")
				if p.rebuild(row{file: "x"})[0].files["/o"].data == ims[0].files["/o"].data {
					t.Error("the step was answered from the cache")
				}
			}},
		{name: "history", file: "FROM scratch\nCOPY --chown=1:2 --chmod=600 a b /o/\n", files: files,
			want: []check{history("COPY --chown=1:2 --chmod=600 a b /o/ # buildkit")}},
	}
}

func copyFlagTables() []table {
	return []table{{"COPY flags", copyFlagRows()}, {"ADD flags", addFlagRows()}}
}

func copyFlagRows() []row {
	files := map[string]string{"a": "1", "d/x.go": "2", "d/x_test.go": "3", "d/e/y.go": "4", "run:0755": "5"}
	chmod := func(value string, want ...check) row {
		return row{name: "--chmod=" + value, file: "FROM scratch\nCOPY --chmod=" + value + " a run d/ /o/\n", files: files,
			want: want}
	}
	return []row{
		{name: "--chown uid:gid", file: "FROM scratch\nCOPY --chown=5:6 d /o/p\n", files: files,
			want: []check{owner("/o/p/x.go", "5:6"), owner("/o/p/e", "5:6"), owner("/o/p", "5:6"), owner("/o", "5:6")}},
		{name: "--chown uid alone", file: "FROM scratch\nCOPY --chown=5 a /o\n", files: files, want: []check{owner("/o", "5:5")}},
		{name: "--chown names of the stage", file: "FROM {base}\nCOPY --chown=ann:daemon a /o\n", files: files,
			want: []check{owner("/o", "1000:1")}},
		{name: "--chown name alone", file: "FROM {base}\nCOPY --chown=ann a /o\n", files: files,
			want: []check{owner("/o", "1000:1000")}},
		{name: "--chown name that nobody has", file: "FROM {base}\nCOPY --chown=nobody-here a /o\n", files: files,
			args: []string{"--no-cache"}, shows: []string{`WARN: Copy: --chown=nobody-here: no user "nobody-here" in /etc/passwd: 0 is used`},
			want: []check{owner("/o", "0:0")}},
		{name: "--chown group that nobody has", file: "FROM {base}\nCOPY --chown=ann:nobody-here a /o\n", files: files,
			args: []string{"--no-cache"}, shows: []string{`no group "nobody-here" in /etc/group: 1000 is used`}, want: []check{owner("/o", "1000:1000")}},
		{name: "--chown name without a passwd", file: "FROM scratch\nCOPY --chown=ann a /o\n", files: files, args: []string{"--no-cache"},
			shows: []string{`the stage has no /etc/passwd: 0 is used`}, want: []check{owner("/o", "0:0")}},
		chmod("640", mode("/o/a", 0o640), mode("/o/run", 0o640), mode("/o/e", 0o640)), chmod("1755", mode("/o/a", 0o1755)),
		chmod("u=rwX,go=rX", mode("/o/a", 0o644), mode("/o/run", 0o755), mode("/o/e", 0o755)), chmod("+x", mode("/o/a", 0o755)),
		chmod("go=u", mode("/o/a", 0o666)),
		chmod("g-r", mode("/o/a", 0o604)),
		{name: "--chmod that is none", file: "FROM scratch\nCOPY --chmod=rw a /\n", files: files,
			fails: []string{"rw", "Dockerfile:2"}},
		{name: "--chmod that is too large", file: "FROM scratch\nCOPY --chmod=10000 a /\n", files: files,
			fails: []string{"10000", "octal"}},
		{name: "--link", file: "FROM {base}\nCOPY --link a /o/\n", files: files, want: []check{has("/o/a", "1"), layers(1)}},
		{name: "--link follows no symlink of the destination", file: "FROM {base}\nRUN ln -s /var /l\nCOPY --link a /l/\n",
			files: files, want: []check{has("/l/a", "1"), lacks("/var/a")}},
		{name: "--link=false", file: "FROM {base}\nRUN ln -s /var /l\nCOPY --link=false a /l/\n", files: files,
			want: []check{has("/var/a", "1")}},
		{name: "--link with a name in --chown", file: "FROM {base}\nCOPY --link --chown=ann a /\n", files: files,
			fails: []string{"--link", "Dockerfile:2"}},
		{name: "--parents", file: "FROM scratch\nCOPY --parents d/e/y.go a /o/\n", files: files,
			want: []check{has("/o/d/e/y.go", "4"), has("/o/a", "1"), lacks("/o/y.go")}},
		{name: "--parents with a pivot", file: "FROM scratch\nCOPY --parents d/./e/y.go /o/\n", files: files,
			want: []check{has("/o/e/y.go", "4"), lacks("/o/d")}},
		{name: "--parents with two stars", file: "FROM scratch\nCOPY --parents **/*.go /o/\n", files: files,
			want: []check{has("/o/d/e/y.go", "4"), has("/o/d/x.go", "2"), lacks("/o/a")}},
		{name: "--exclude", file: "FROM scratch\nCOPY --exclude=*_test.go d /o\n", files: files,
			want: []check{has("/o/x.go", "2"), lacks("/o/x_test.go")}},
		{name: "--exclude twice and two stars", file: "FROM scratch\nCOPY --exclude=**/y.go --exclude=a . /o\n", files: files,
			want: []check{has("/o/d/x.go", "2"), lacks("/o/a", "/o/d/e/y.go")}},
		{name: "--exclude with --parents", file: "FROM scratch\nCOPY --parents --exclude=**/*_test.go d /o/\n", files: files,
			want: []check{has("/o/d/x.go", "2"), lacks("/o/d/x_test.go")}},
		{name: "--from an image that is not there", file: "FROM scratch\nCOPY --from={registry}/none/such a /\n",
			fails: []string{"none/such", "Dockerfile:2"}},
	}
}

func addRows() []row {
	files := map[string]string{"a": "1", "d/x": "2"}
	packed := func(name, filter string) row {
		return row{name: "unpacks " + name, file: "FROM scratch\nADD " + name + " /o/\n",
			setup: script("mkdir s; echo in > s/f; mkdir -m 700 s/d; tar --owner=5 --group=6 --numeric-owner " +
				"--mtime=@1000000000 -C s -cf - . | " + filter + " > " + name + "; rm -r s"),
			want: []check{has("/o/f", "in\n"), owner("/o/f", "5:6"), mode("/o/d", 0o700), changed("/o/f", 1000000000),
				lacks("/o/" + name)}}
	}
	return []row{
		{name: "file", file: "FROM scratch\nADD a /o\n", files: files,
			want: []check{has("/o", "1"), mode("/o", 0o644), owner("/o", "0:0")}},
		{name: "directory", file: "FROM scratch\nADD d /o\n", files: files, want: []check{has("/o/x", "2")}},
		{name: "wildcard", file: "FROM scratch\nADD a* /o/\n", files: files, want: []check{has("/o/a", "1")}},
		packed("x.tar", "cat"), packed("x.tar.gz", "gzip"), packed("x.tar.bz2", "bzip2"), packed("x.tar.xz", "xz"),
		packed("x.tar.zst", "zstd"),
		{name: "unpacks by content and not by name", file: "FROM scratch\nADD x.txt /o/\n",
			setup: script("mkdir s; echo in > s/f; tar -C s -czf x.txt .; rm -r s"), want: []check{has("/o/f", "in\n")}},
		{name: "does not unpack what is no archive", file: "FROM scratch\nADD x.tar.gz /o/\n",
			files: map[string]string{"x.tar.gz": "text"}, want: []check{has("/o/x.tar.gz", "text")}},
		{name: "does not unpack zip", file: "FROM scratch\nADD x.zip /o/\n", setup: script("printf 'PK\\003\\004' > x.zip"),
			want: []check{has("/o/x.zip", "PK\x03\x04")}},
		{name: "unpacks below the destination as below a root", file: "FROM {base}\nRUN mkdir -p /o/usr/lib && ln -s /usr/lib /o/lib\n" +
			"ADD x.tar /o/\nRUN cat /o/lib/f > /r; ls /usr /up > /s 2>&1; true\n",
			setup: tarOf("[('lib/f', None, 'in'), ('../up', None, 'up'), ('out', '../../..', None), ('out/g', None, 'out')]"),
			want: []check{symlink("/o/lib", "/usr/lib"), has("/o/usr/lib/f", "in"), has("/o/up", "up"), symlink("/o/out", "../../.."),
				has("/o/g", "out"), lacks("/up", "/g", "/usr/lib/f")}},
		{name: "unpacks nothing for the destination itself", file: "FROM {base}\nRUN mkdir -m 700 /o\nADD x.tar /o/\n",
			setup: tarOf("[('', None, 'file'), ('.', 'link', None), ('f', None, 'in')]"),
			want:  []check{dir("/o"), mode("/o", 0o700), has("/o/f", "in")}},
		{name: "unpacks through no symlink to nothing", file: "FROM {base}\nADD x.tar /o/\n",
			setup: tarOf("[('l', '/bin', None), ('l/f', None, 'in')]"), fails: []string{"\"l\" is a symlink to nothing in \"/o\"", "Dockerfile:2"}},
		{name: "URL", file: "FROM scratch\nADD {http}/file.txt /o/\n",
			want: []check{has("/o/file.txt", "remote\n"), mode("/o/file.txt", 0o600), owner("/o/file.txt", "0:0"),
				changed("/o/file.txt", modified.Unix())}},
		{name: "URL to a file", file: "FROM scratch\nADD {http}/file.txt /o\n", want: []check{has("/o", "remote\n")}},
		{name: "URL that is redirected", file: "FROM scratch\nADD {http}/moved /o\n", want: []check{has("/o", "remote\n")}},
		{name: "URL is called what the URL says", file: "FROM scratch\nADD {http}/named /o/\n",
			want: []check{has("/o/named", "named by the server\n")}},
		{name: "URL of an archive is not unpacked", file: "FROM scratch\nADD {http}/archive.tar.gz /o/\n",
			want: []check{mode("/o/archive.tar.gz", 0o600), lacks("/o/in.txt")}},
		{name: "URL that is not there", file: "FROM scratch\nADD {http}/nope /o\n", fails: []string{"404", "Dockerfile:2"}},
		{name: "URL with a token", file: "FROM scratch\nADD {http}/private /o\n", setup: script("printf tok > $dir/tok"),
			args: []string{"--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,src={dir}/tok"},
			want: []check{has("/o", "for members\n")}},
		{name: "URL with a header", file: "FROM scratch\nADD {http}/private /o\n",
			setup: script("printf 'Bearer tok' > $dir/tok"),
			args:  []string{"--secret", "id=HTTP_AUTH_HEADER_127.0.0.1,src={dir}/tok"},
			want:  []check{has("/o", "for members\n")}},
		{name: "URL that needs a token", file: "FROM scratch\nADD {http}/private /o\n", fails: []string{"401", "Dockerfile:2"}},
		{name: "several URLs and files", file: "FROM scratch\nADD a {http}/file.txt /o/\n", files: files,
			want: []check{has("/o/a", "1"), has("/o/file.txt", "remote\n")}},
	}
}

// tarOf makes x.tar in the context of names with the target of a symlink or the content of a file, as a list of Python's.
func tarOf(list string) func(*testing.T, *place) {
	return script("python3 -c \"import tarfile, io\nt = tarfile.open('x.tar', 'w')\nfor name, link, text in " + list + ":\n" +
		"  i = tarfile.TarInfo(name)\n  if link: i.type, i.linkname = tarfile.SYMTYPE, link\n  data = (text or '').encode()\n" +
		"  i.size = len(data)\n  t.addfile(i, io.BytesIO(data))\nt.close()\"")
}

func addFlagRows() []row {
	sum := "sha256:" + fmt.Sprintf("%x", sha256Sum("remote\n"))
	pack := script("mkdir s; echo in > s/f; tar -C s -czf x.tar.gz .; rm -r s")
	return []row{
		{name: "--checksum", file: "FROM scratch\nADD --checksum=" + sum + " {http}/file.txt /o\n",
			want: []check{has("/o", "remote\n")}},
		{name: "--checksum that is wrong", file: "FROM scratch\nADD --checksum=sha256:" + zeros + " {http}/file.txt /o\n",
			fails: []string{"sha256:" + zeros, "Dockerfile:2"}},
		{name: "--checksum of a local file", file: "FROM scratch\nADD --checksum=" + sum + " a /o\n",
			files: map[string]string{"a": "x"}, fails: []string{"checksum requires HTTP(S) or Git sources"}},
		{name: "--checksum of several", file: "FROM scratch\nADD --checksum=" + sum + " {http}/a {http}/b /o/\n",
			fails: []string{"checksum can't be specified for multiple sources"}},
		{name: "--checksum that is none", file: "FROM scratch\nADD --checksum=md5:1 {http}/file.txt /o/\n",
			fails: []string{"md5:1", "Dockerfile:2"}},
		{name: "--checksum of a git commit", file: "FROM scratch\nADD --checksum={commit} {git} /o/\n",
			want: []check{has("/o/file.txt", "two\n")}},
		{name: "--checksum of a git commit that is wrong", file: "FROM scratch\nADD --checksum={old} {git} /o/\n",
			fails: []string{"Dockerfile:2"}},
		{name: "--unpack=false", file: "FROM scratch\nADD --unpack=false x.tar.gz /o/\n", setup: pack,
			want: []check{kind("/o/x.tar.gz", tar.TypeReg), lacks("/o/f")}},
		{name: "--unpack of a URL", file: "FROM scratch\nADD --unpack {http}/archive.tar.gz /o/\n",
			want: []check{has("/o/in.txt", "from an archive\n"), lacks("/o/archive.tar.gz")}},
		{name: "--chown and --chmod", file: "FROM scratch\nADD --chown=5:6 --chmod=640 a /o\n",
			files: map[string]string{"a": "x"}, want: []check{owner("/o", "5:6"), mode("/o", 0o640)}},
		{name: "--chown of an archive", file: "FROM scratch\nADD --chown=5:6 x.tar.gz /o/\n", setup: pack,
			want: []check{owner("/o/f", "5:6")}},
		{name: "--chmod of a URL", file: "FROM scratch\nADD --chmod=755 {http}/file.txt /o\n", want: []check{mode("/o", 0o755)}},
		{name: "--link", file: "FROM {base}\nRUN ln -s /var /l\nADD --link a /l/\n", files: map[string]string{"a": "x"},
			want: []check{has("/l/a", "x")}},
		{name: "--exclude", file: "FROM scratch\nADD --exclude=b d /o/\n", files: map[string]string{"d/a": "1", "d/b": "2"},
			want: []check{has("/o/a", "1"), lacks("/o/b")}},
		{name: "--keep-git-dir", file: "FROM scratch\nADD --keep-git-dir {git} /o\n",
			want: []check{dir("/o/.git"), has("/o/file.txt", "two\n")}},
		{name: "--from is COPY's", file: "FROM scratch\nADD --from=x a /\n", fails: []string{"unknown flag: --from"}},
	}
}

func gitTables() []table {
	return []table{{"ADD git", gitRows()}}
}

func gitRows() []row {
	add := func(name, url string, want ...check) row {
		return row{name: name, file: "FROM scratch\nADD " + url + " /o\n", want: want}
	}
	fails := func(name, url string, texts ...string) row {
		return row{name: name, file: "FROM scratch\nADD " + url + " /o\n", fails: append(texts, "Dockerfile:2")}
	}
	one, two := has("/o/file.txt", "one\n"), has("/o/file.txt", "two\n")
	return []row{
		add("repository", "{git}", two, lacks("/o/.git"), has("/o/sub/sub.txt", "sub\n"), mode("/o/run.sh", 0o755),
			mode("/o/file.txt", 0o644), owner("/o/file.txt", "0:0")),
		add("branch", "{git}#other", has("/o/file.txt", "branch\n")), add("tag", "{git}#v1", one),
		add("commit", "{git}#{old}", one),
		add("full reference", "{git}#refs/heads/other", has("/o/file.txt", "branch\n")),
		add("subdirectory", "{git}#main:dir", has("/o/deep/d.txt", "deep\n"), lacks("/o/file.txt")),
		add("subdirectory of the default branch", "{git}#:dir", has("/o/deep/d.txt", "deep\n")),
		add("query ref", "{git}?ref=v1", one), add("query branch", "{git}?branch=other", has("/o/file.txt", "branch\n")),
		add("query tag", "{git}?tag=v1", one),
		add("query commit with ref", "{git}?ref=v1&commit={old}", one), add("query checksum", "{git}?checksum={commit}", two),
		add("query subdir", "{git}?subdir=dir", has("/o/deep/d.txt", "deep\n")),
		add("query submodules=false", "{git}?submodules=false", two, lacks("/o/sub/sub.txt")),
		add("query keep-git-dir", "{git}?keep-git-dir=true", dir("/o/.git")),
		add("query mtime=commit", "--chown=7:7 {git}?mtime=commit", changed("/o/file.txt", 1580702706)),
		add("query fetch-by-commit", "{git}?ref=v1&commit={old}&fetch-by-commit=true", one),
		fails("query commit that the reference does not have", "{git}?ref=other&commit={commit}", "commit"),
		fails("query that is unknown", "{git}?brnach=other", "brnach"),
		fails("query and fragment that conflict", "{git}?ref=other#v1", "ref is both"),
		fails("query ref and branch", "{git}?ref=a&branch=b", "branch"),
		fails("reference that is not there", "{git}#nope", "nope"),
		fails("subdirectory that is not there", "{git}#main:nope", "nope"),
		add("repository with SHA-256", "{http}/git/sha256.git", has("/o/f", "sha256\n")),
		{name: "private with a token", file: "FROM scratch\nADD {http}/private-git/repo.git?submodules=0 /o\n",
			setup: script("printf tok > $dir/tok"), args: []string{"--secret", "id=GIT_AUTH_TOKEN,src={dir}/tok"},
			want: []check{two}},
		{name: "private with a header", file: "FROM scratch\nADD {http}/private-git/repo.git?submodules=0 /o\n",
			setup: script("printf 'basic " + basic("x-access-token:tok") + "' > $dir/h"),
			args:  []string{"--secret", "id=GIT_AUTH_HEADER.{host},src={dir}/h"}, want: []check{two}},
		{name: "private without a token", file: "FROM scratch\nADD {http}/private-git/repo.git /o\n",
			fails: []string{"Dockerfile:2"}},
		{name: "is cached by commit with its .git", file: "FROM {base}\nADD --keep-git-dir {git} /r\nRUN head -c 16 /dev/urandom | od -x > /o\n",
			after: func(t *testing.T, p *place, ims []*image) {
				harness.WriteFiles(t, p.dir, map[string]string{"Dockerfile": p.fill("FROM {base}\n" +
					"ADD --keep-git-dir --checksum={commit} {git} /r\nRUN head -c 16 /dev/urandom | od -x > /o\n")})
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x"})[0])
				harness.WriteFiles(t, p.dir, map[string]string{"Dockerfile": p.fill("FROM {base}\n" +
					"ADD --keep-git-dir --chmod=700 {git} /r\nRUN head -c 16 /dev/urandom | od -x > /o\n")})
				mode("/r/file.txt", 0o700)(t, p.rebuild(row{file: "x"})[0])
			}},
		{name: "is cached by commit", file: "FROM {base}\nADD {git} /r\nRUN head -c 16 /dev/urandom | od -x > /o\n",
			after: func(t *testing.T, p *place, ims []*image) {
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x"})[0])
			}},
	}
}

func ignoreTables() []table {
	files := map[string]string{"a": "1", "b.txt": "2", "d/a": "3", "d/b.txt": "4", "d/e/c.txt": "5"}
	rule := func(name, ignore string, want ...check) row {
		f := map[string]string{".dockerignore": ignore}
		for k, v := range files {
			f[k] = v
		}
		return row{name: name, file: "FROM scratch\nCOPY . /o/\n", files: f, want: want}
	}
	return []table{{".dockerignore", []row{
		rule("name", "a\n", lacks("/o/a"), has("/o/d/a", "3")),
		rule("directory with all below it", "d\n", lacks("/o/d", "/o/d/a"), has("/o/a", "1")),
		rule("star", "*.txt\n", lacks("/o/b.txt"), has("/o/d/b.txt", "4")),
		rule("two stars", "**/*.txt\n", lacks("/o/b.txt", "/o/d/b.txt", "/o/d/e/c.txt"), has("/o/d/a", "3")),
		rule("slash in front and behind", "/d/\n", lacks("/o/d")), rule("cleaned", "./d/../a\n", lacks("/o/a")),
		rule("exception", "*\n!d\n", lacks("/o/a"), has("/o/d/a", "3")),
		rule("last match wins", "*.txt\n!b.txt\nb.txt\n", lacks("/o/b.txt")),
		rule("exception below what is ignored", "d\n!d/e/c.txt\n", lacks("/o/d/a"), has("/o/d/e/c.txt", "5")),
		rule("comments and empty lines", "# a\n\n  \n#b.txt\nb.txt   \n", lacks("/o/b.txt"), has("/o/a", "1")),
		rule("itself and the Dockerfile", ".dockerignore\n", lacks("/o/.dockerignore")),
		{name: "Dockerfile that is ignored is still read",
			files: map[string]string{".dockerignore": "Dockerfile\n", "Dockerfile": "FROM scratch\nCOPY . /o/\n", "a": "1"},
			want:  []check{has("/o/a", "1"), lacks("/o/Dockerfile")}},
		{name: "of the Dockerfile comes first",
			files: map[string]string{".dockerignore": "a\n", "My.dockerignore": "b\n", "My": "FROM scratch\nCOPY . /o/\n",
				"a": "1", "b": "2"},
			args: []string{"-f", "{ctx}/My"}, want: []check{has("/o/a", "1"), lacks("/o/b")}},
		{name: "COPY of what is ignored", file: "FROM scratch\nCOPY a /\n",
			files: map[string]string{".dockerignore": "a\n", "a": "1"}, fails: []string{"/a", ".dockerignore", "Dockerfile:2"}},
		{name: "bind mounts", file: "FROM {base}\nRUN --mount=target=/m ls /m > /o\n",
			files: map[string]string{".dockerignore": "b\n", "a": "1", "b": "2"}, want: []check{has("/o", "a\n")}},
		{name: "not COPY --from", file: "FROM scratch AS s\nCOPY a /b\nFROM scratch\nCOPY --from=s /b /\n",
			files: map[string]string{".dockerignore": "b\n", "a": "1"}, want: []check{has("/b", "1")}},
		{name: "not git", file: "FROM scratch\nADD {git} /o\n", files: map[string]string{".dockerignore": "**\n"},
			want: []check{has("/o/file.txt", "two\n")}},
		{name: "not an archive as context", context: "-",
			files: map[string]string{".dockerignore": "a\n", "a": "1", "b": "2", "Dockerfile": "FROM scratch\nCOPY . /o/\n"},
			stdin: packed("cat"), want: []check{has("/o/b", "2"), has("/o/a", "1")}},
		{name: "ill-formed pattern", file: "FROM scratch\nCOPY . /\n", files: map[string]string{".dockerignore": "a[\n"},
			fails: []string{".dockerignore", "a["}},
	}}}
}

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"
