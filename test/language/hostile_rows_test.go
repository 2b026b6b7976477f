package language

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// hostileTables are Dockerfiles, bases and contexts that want out. Every row plants a canary: something on this machine that a build must
// neither see nor touch. The names of rows begin with what they are called in the threat model (docs/SECURITY.md).
func hostileTables() []table {
	return []table{{"hostile Dockerfile", hostileFileRows()}, {"hostile mounts", hostileMountRows()},
		{"hostile users", hostileUserRows()},
		{"hostile context", hostileContextRows()}, {"hostile git", hostileGitRows()}}
}

// secretOfHost is in the canary's file; where it turns up, something was read that must not be.
const secretOfHost = "only for this machine"

// canary plants a directory {dir}/canary with a file, an empty directory and a passwd of its own.
func canary(more ...func(*testing.T, *place)) func(*testing.T, *place) {
	return func(t *testing.T, p *place) {
		t.Helper()
		dir := filepath.Join(p.dir, "canary")
		for _, d := range []string{dir, filepath.Join(dir, "empty")} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, text := range map[string]string{"file": secretOfHost + "\n", "passwd": "evil:x:7:7::/:/bin/sh\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range more {
			f(t, p)
		}
	}
}

// unharmed checks that the canary is as it was, that nothing beside it was made, and that the build did not show it.
func unharmed(t *testing.T, p *place) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(filepath.Join(p.dir, "canary"), func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(p.dir, name)
		info, err := d.Info()
		got = append(got, fmt.Sprintf("%s %v", rel, info.Mode()))
		return err
	})
	want := "canary drwxr-xr-x, canary/empty drwxr-xr-x, canary/file -rw-r--r--, canary/passwd -rw-r--r--"
	if text := strings.Join(got, ", "); err != nil || text != want {
		t.Errorf("the canary is %s (%v)", text, err)
	}
	data, err := os.ReadFile(filepath.Join(p.dir, "canary", "file"))
	if err != nil || string(data) != secretOfHost+"\n" {
		t.Errorf("the canary's file is %q (%v)", data, err)
	}
	if strings.Contains(p.result.Stderr+p.result.Stdout, secretOfHost) {
		t.Errorf("the build has seen the canary: %v", p.result)
	}
	if _, err := os.Lstat(filepath.Join(p.dir, "pwned")); err == nil {
		t.Error("something was executed on this machine")
	}
	if p.result.Took > 2*time.Minute { // what waits for a FIFO waits for ever; a busy machine takes half a minute for a gigabyte
		t.Errorf("it took %v", p.result.Took)
	}
	if p.result.Code == 0 {
		for _, im := range readArchive(t, p.out) {
			for name, e := range im.files {
				if strings.Contains(e.data, secretOfHost) && !strings.HasPrefix(name, "/expected") {
					t.Errorf("%s in the image is the canary", name)
				}
			}
		}
	}
}

// look is a RUN that reads the canary by every path that could lead to it, from where it is.
const look = "for up in . .. ../.. ../../.. ../../../.. ../../../../.. ../../../../../..; do cat $up{dir}/canary/file " +
	"$up/canary/file; done 2>/dev/null; true\n"

// climb leads up from anywhere.
const climb = "../../../../../../../../../../.."

func hostileFileRows() []row {
	rows := []row{
		{name: "B1 only the standard descriptors are open", file: "FROM {base}\nRUN ls /proc/self/fd | tr '\\n' ' ' > /o\n",
			setup: canary(), always: unharmed, want: []check{has("/o", "0 1 2 3 ")}},
		{name: "B1 WORKDIR /proc/1/cwd and root", file: "FROM {base}\nWORKDIR /proc/1/root\nRUN " + look, setup: canary(),
			either: true, always: unharmed},
		{name: "B2 /dev and /proc and /sys of the base are symlinks",
			file: "FROM scratch\nCOPY --from={base} /bin /bin\nADD evil.tar /\n" +
				"RUN echo x > /dev/file; echo x > /dev/null; echo x > /proc/file; echo x > /sys/file; echo x > " +
				"/etc/resolv.conf; echo x > /etc/hosts\n",
			setup: canary(script("mkdir -p s/etc; for n in dev proc sys; do ln -s {dir}/canary s/$n; done; for n in " +
				"resolv.conf hosts hostname; do ln -s {dir}/canary/file s/etc/$n; done; tar -C s -cf evil.tar .; rm -r s")),
			either: true, always: unharmed},
		{name: "B2 devices of the base are symlinks",
			file: "FROM scratch\nCOPY --from={base} /bin /bin\nADD evil.tar /\n" +
				"RUN echo x > /dev/null; echo x > /dev/zero; echo x > /dev/console\n",
			setup: canary(script("mkdir -p s/dev; for n in null zero console ptmx stdin stdout; do ln -s {dir}/canary/file " +
				"s/dev/$n; done; ln -s {dir}/canary s/dev/pts; ln -s {dir}/canary s/dev/shm; tar -C s -cf evil.tar .; rm -r s")),
			either: true, always: unharmed},
		{name: "B3 the program is not writable through /proc",
			file: "FROM {base}\nRUN for p in /proc/[0-9]*/exe; do echo x >> $p; done; true\n", setup: canary(), either: true,
			always: unharmed},
		{name: "B8 entitlements are not to be had from the Dockerfile",
			file:  "FROM {base}\nARG BUILDKIT_INSECURE=1\nRUN --security=insecure true\n",
			fails: []string{"security.insecure is not allowed"}},
		{name: "B16 capabilities", file: "FROM {base}\nRUN grep -E 'CapInh|NoNewPrivs' /proc/self/status > /o\n",
			want: []check{contains("/o", "CapInh:\t0000000000000000\n")}},
		{name: "B17 WORKDIR through a symlink",
			file: "FROM {base}\nRUN ln -s {dir}/canary /link\nWORKDIR /link/made\nRUN echo x > f\n", setup: canary(),
			always: unharmed,
			after:  func(t *testing.T, p *place, ims []*image) { has(p.dir+"/canary/made/f", "x\n")(t, ims[0]) }},
		{name: "B17 WORKDIR through a symlink that climbs",
			file: "FROM {base}\nRUN ln -s " + climb + "{dir}/canary /link\nUSER ann\nWORKDIR /link/made\n", setup: canary(),
			always: unharmed,
			after:  func(t *testing.T, p *place, ims []*image) { owner(p.dir+"/canary/made", "1000:1000")(t, ims[0]) }},
		{name: "B17 COPY through a symlink",
			file:  "FROM {base}\nRUN ln -s {dir}/canary /link\nCOPY --chown=5:6 --chmod=777 <<E /link/made\nx\nE\n",
			setup: canary(), always: unharmed,
			after: func(t *testing.T, p *place, ims []*image) { has(p.dir+"/canary/made", "x\n")(t, ims[0]) }},
		{name: "B17 COPY onto a symlink",
			file: "FROM {base}\nRUN ln -s {dir}/canary/file /link\nCOPY --chmod=777 <<E /link\nx\nE\n", setup: canary(),
			always: unharmed},
		{name: "B17 RUN through a symlink",
			file: "FROM {base}\nRUN ln -s {dir}/canary /link\n" +
				"RUN cat /link/file || mkdir -p {dir}/canary && echo x > /link/made\n",
			setup: canary(), either: true, always: unharmed},
		{name: "A1 ADD of an archive that climbs", file: "FROM {base}\nADD evil.tar /a/b/\n",
			setup: canary(script("python3 - <<E\nimport tarfile,io\nt=tarfile.open('evil.tar','w')\n" +
				"for n in " +
				"('../../../../../../../../..{dir}/canary/made','{dir}/canary/made2','a/../../../../../..{dir}/canary/made3'):\n  i=tarfile.TarInfo(n); i.size=1; t.addfile(i, io.BytesIO(b'x'))\nt.close()\nE\n")),
			either: true, always: unharmed},
		{name: "A2 ADD of an archive that writes through its own symlink", file: "FROM {base}\nADD evil.tar /a/\n",
			setup: canary(script("python3 - <<E\nimport tarfile,io\nt=tarfile.open('evil.tar','w')\n" +
				"i=tarfile.TarInfo('l'); i.type=tarfile.SYMTYPE; i.linkname='{dir}/canary'; t.addfile(i)\n" +
				"i=tarfile.TarInfo('l/made'); i.size=1; t.addfile(i, io.BytesIO(b'x'))\n" +
				"i=tarfile.TarInfo('h'); i.type=tarfile.LNKTYPE; i.linkname='l/file'; t.addfile(i)\nt.close()\nE\n")),
			either: true, always: unharmed},
		{name: "B19 frontends are not run", file: "# syntax={registry}/frontend\nFROM scratch\n",
			fails: []string{"frontends are not run"}},
		{name: "F escape sequences do not reach the terminal",
			file: "FROM {base}\nRUN printf '\\033]0;title\\007\\033[2J'\nLABEL a=\"\x1b[2J\"\n", either: true,
			always: func(t *testing.T, p *place) {
				if strings.Contains(p.result.Stderr, "\x1b]") {
					t.Errorf("an escape sequence is shown: %q", p.result.Stderr)
				}
			}},
	}
	for _, n := range []int{3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 20} {
		rows = append(rows,
			row{name: fmt.Sprintf("B1 WORKDIR of descriptor %d", n),
				file: fmt.Sprintf("FROM {base}\nWORKDIR /proc/self/fd/%d\nRUN "+look, n), setup: canary(), either: true,
				always: unharmed})
	}
	return rows
}

func hostileMountRows() []row {
	run := func(name, flags, command string) row {
		return row{name: name,
			file: "FROM {base} AS evil\n" +
				"RUN ln -s {dir}/canary /abs; ln -s " + climb + "{dir}/canary /rel; ln -s {dir}/canary/file /file; mkdir /d; " +
				"ln -s ../abs /d/l\nFROM {base}\nRUN ln -s {dir}/canary /abs; ln -s " + climb + "{dir}/canary /rel\n" +
				"RUN " + flags + " " + command + "\n",
			setup: canary(link("{dir}/canary", "abs"), link(climb+"{dir}/canary", "rel"),
				link("{dir}/canary/file", "file")),
			either: true, always: unharmed}
	}
	fails := func(name, flags string) row {
		return row{name: name, file: "FROM {base}\nRUN " + flags + " true\n", fails: []string{"Dockerfile:2"}}
	}
	return []row{
		run("B4 target is a symlink", "--mount=type=tmpfs,target=/abs", "touch /abs/made"),
		run("B4 target is a symlink that climbs", "--mount=type=tmpfs,target=/rel", "touch /rel/made"),
		run("B4 target is below a symlink", "--mount=type=tmpfs,target=/abs/made", "touch /abs/made/x"),
		run("B4 target climbs", "--mount=type=tmpfs,target=/"+climb+"{dir}/canary/made", "true"),
		run("B4 target of a secret is below a symlink", "--mount=type=secret,id=s,env=S,target=/abs/made", "true"),
		run("B4 target of a cache is a symlink", "--mount=type=cache,id=b4,target=/abs,mode=0777,uid=5", "touch /abs/made"),
		run("B4 target in /proc", "--mount=type=tmpfs,target=/proc/self/root", "ls /"),
		run("B4 target in /proc/self/fd", "--mount=type=tmpfs,target=/proc/self/fd/7", "ls /"),
		run("B6 mount point swapped for a symlink", "--mount=type=tmpfs,target=/p/empty", "mv /p /q && ln -s {dir}/canary /p"),
		run("B6 mount point of a file swapped for a symlink", "--mount=type=bind,from=evil,source=/etc/passwd,target=/p/file",
			"mv /p /q && ln -s {dir}/canary /p"),
		run("B6 working directory swapped for a symlink", "", "rm -rf /etc /tmp; ln -s {dir}/canary /etc; ln -s {dir}/canary /tmp"),
		run("B10 source is a symlink of a stage", "--mount=from=evil,source=/abs,target=/m,rw", "cat /m/file; touch /m/made"),
		run("B10 source is a symlink of a stage that climbs", "--mount=from=evil,source=/rel,target=/m,rw",
			"cat /m/file; touch /m/made"),
		run("B10 source is below a symlink of a stage", "--mount=from=evil,source=/d/l/file,target=/m,rw",
			"cat /m; echo x > /m"),
		run("B10 source is a symlink to a file", "--mount=from=evil,source=/file,target=/m,rw", "cat /m; echo x > /m"),
		run("B10 source climbs out of a stage", "--mount=from=evil,source="+climb+"{dir}/canary,target=/m,rw",
			"cat /m/file; touch /m/made"),
		run("B10 source climbs out of the context", "--mount=source=../canary,target=/m,rw", "cat /m/file; touch /m/made"),
		run("B10 source is a symlink of the context", "--mount=source=abs,target=/m,rw", "cat /m/file; touch /m/made"),
		run("B10 source is a symlink of the context that climbs", "--mount=source=rel,target=/m,rw",
			"cat /m/file; touch /m/made"),
		run("B10 source is below a symlink of the context", "--mount=source=abs/file,target=/m,rw", "cat /m; echo x > /m"),
		run("B10 the whole context", "--mount=target=/m,rw", "cat /m/file /m/abs/file /m/rel/file; touch /m/abs/made"),
		run("B10 source of a cache is a symlink", "--mount=type=cache,id=b10,target=/c",
			"ln -s {dir}/canary /c/l; true\nRUN --mount=type=cache,id=b10,source=/l,target=/m cat /m/file; touch /m/made"),
		run("B10 source of a cache climbs", "--mount=type=cache,id=b10,source="+climb+"{dir}/canary,target=/m",
			"cat /m/file; touch /m/made"),
		run("B12 cache id climbs", "--mount=type=cache,id="+climb+"{dir}/canary,target=/m", "cat /m/file; touch /m/made"),
		run("B12 cache id with a NUL and a newline", "--mount=type=cache,\"id=a\nb\",target=/m", "touch /m/made"),
		run("B12 secret id climbs", "--mount=type=secret,id=../../{dir}/canary/file",
			"cat /run/secrets/* "+climb+"{dir}/canary/file"),
		run("B12 ssh id climbs", "--mount=type=ssh,id=../../{dir}/canary/made", "true"),
		fails("B11 bind-propagation", "--mount=type=bind,target=/m,bind-propagation=shared"),
		fails("B11 relabel", "--mount=type=bind,target=/m,z"),
		fails("B11 options", "--mount=type=tmpfs,target=/m,options=suid"),
		fails("B11 type proc", "--mount=type=proc,target=/m"), fails("B11 type overlay", "--mount=type=overlay,target=/m"),
		fails("B11 mode too large", "--mount=type=cache,target=/m,mode=99999999999"),
		fails("B11 uid too large", "--mount=type=cache,target=/m,uid=99999999999999999999"),
		fails("B11 uid negative", "--mount=type=cache,target=/m,uid=-1"),
		fails("B11 size negative", "--mount=type=tmpfs,target=/m,size=-1"),
	}
}

func hostileUserRows() []row {
	var rows []row
	for _, id := range []string{"2147483648", "4294967295", "4294967296", "99999999999", "-1", "0x0", "+0", "1:4294967296", "1:-1",
		"18446744073709551616"} {
		rows = append(rows,
			row{name: "B14 USER " + id, file: "FROM {base}\nUSER " + id + "\nRUN echo \"I am $(id -u)\"\n",
				fails: []string{"Dockerfile:3"}, always: func(t *testing.T, p *place) {
					if strings.Contains(p.result.Stderr, "I am 0") {
						t.Errorf("it ran as root: %v", p.result)
					}
				}})
	}
	// passwd is a row with a base whose /etc/passwd is something else than a file.
	passwd := func(name, make, as string) row {
		return row{name: name, file: "FROM scratch\nCOPY --from={base} /bin /bin\nADD evil.tar /\n" + as,
			setup: canary(script("mkdir -p s/etc; " + make + "; tar -C s -cf evil.tar .; rm -r s")), always: unharmed,
			fails: []string{"Dockerfile:"}}
	}
	return append(rows,
		passwd("B12 /etc/passwd is a symlink to this machine's", "ln -s {dir}/canary/passwd s/etc/passwd", "USER evil\nRUN id\n"),
		// Nobody of that name in the stage: the file is root's, as in BuildKit, and a warning says so.
		row{name: "B12 /etc/passwd is a symlink for --chown", file: "FROM scratch\nADD evil.tar /\nCOPY --chown=evil <<E /f\nE\n",
			setup: canary(script("mkdir -p s/etc; ln -s {dir}/canary/passwd s/etc/passwd; tar -C s -cf evil.tar .; rm -r s")), always: unharmed,
			args: []string{"--no-cache"}, shows: []string{"the stage has no /etc/passwd: 0 is used"}, want: []check{owner("/f", "0:0")}},
		// Nobody of that name: WORKDIR makes the directory root's, as it is without USER.
		row{name: "B12 /etc/passwd is a symlink for WORKDIR",
			file: "FROM {base}\nRUN ln -sf {dir}/canary/passwd /etc/passwd\nUSER evil\nWORKDIR /w\n", setup: canary(),
			always: unharmed, want: []check{owner("/w", "0:0")}},
		passwd("B12 /etc is a symlink to this machine's", "rmdir s/etc; ln -s {dir}/canary s/etc", "USER evil\nRUN id\n"),
		passwd("B12 /etc/passwd is a FIFO", "mkfifo s/etc/passwd", "USER evil\nRUN id\n"),
		passwd("B12 /etc/passwd is a FIFO for --chown", "mkfifo s/etc/passwd", "COPY --chown=evil <<E /f\nE\n"),
		passwd("B12 /etc/group is a FIFO", "mkfifo s/etc/group; echo evil:x:1:1::/:/bin/sh > s/etc/passwd",
			"USER evil:more\nRUN id\n"),
		passwd("B12 /etc/passwd is a device", "mknod s/etc/passwd c 1 5", "USER evil\nRUN id\n"),
		passwd("B13 /etc/passwd is giant", "truncate -s 300M s/etc/passwd; tar -S -C s -cf evil.tar .", "USER evil\nRUN id\n"),
		passwd("B13 /etc/passwd is giant for --chown", "truncate -s 300M s/etc/passwd", "COPY --chown=evil <<E /f\nE\n"),
		passwd("B13 /etc/group is giant", "truncate -s 300M s/etc/group", "USER 1:evil\nRUN id\n"),
		row{name: "B14 a uid that is a name in /etc/passwd",
			file: "FROM {base}\nRUN echo '4294967296:x:0:0::/:/bin/sh' >> /etc/passwd\nUSER 4294967296\n" +
				"RUN echo \"I am $(id -u)\"\n",
			either: true, always: func(t *testing.T, p *place) {
				if p.result.Code == 0 {
					t.Errorf("a number out of range was looked up as a name: %v", p.result)
				}
			}},
	)
}

func hostileContextRows() []row {
	copying := func(name, source string, more ...func(*testing.T, *place)) row {
		return row{name: name, file: "FROM scratch\nCOPY " + source + " /o/\n", setup: canary(more...), either: true,
			always: unharmed}
	}
	return []row{
		copying("C3 absolute symlink", "l", link("{dir}/canary/file", "l")),
		copying("C3 symlink that climbs", "l", link("../canary/file", "l")),
		copying("C3 symlink that climbs far", "l", link(climb+"{dir}/canary/file", "l")),
		copying("C3 symlink to a directory", "l/file", link("{dir}/canary", "l")),
		copying("C3 directory that is a symlink", "l/", link("../canary", "l")),
		copying("C3 chain of symlinks", "a", link("b", "a"), link("c", "b"), link("../canary/file", "c")),
		copying("C3 wildcard below a symlink", "l/*", link("{dir}/canary", "l")),
		copying("C3 everything", ".", link("{dir}/canary", "l"), link("../canary/file", "m")),
		copying("C3 source that climbs", "../canary/file"), copying("C3 source that climbs inside", "a/../../canary/file"),
		copying("C3 absolute source", "{dir}/canary/file"),
		copying("C3 symlink to /proc/self", "l/environ", link("/proc/self", "l")),
		copying("C3 --parents through a symlink", "--parents l/./file", link("{dir}/canary", "l")),
		copying("C3 symlink that is a loop", "a", link("b", "a"), link("a", "b")),
		{name: "C3 Dockerfile is a symlink out of the context",
			setup: canary(script("printf 'FROM scratch\\nLABEL a=\"" + secretOfHost + "\"\\n' > {dir}/canary/file; ln -s " +
				"{dir}/canary/file Dockerfile")),
			either: true, always: func(t *testing.T, p *place) {
				if p.result.Code == 0 {
					t.Errorf("a Dockerfile outside of the context was built: %v", p.result)
				}
			}},
		{name: "C3 .dockerignore is a symlink out of the context", file: "FROM scratch\nCOPY . /o/\n",
			files: map[string]string{secretOfHost: "x"}, setup: canary(link("{dir}/canary/file", ".dockerignore")),
			either: true, always: func(t *testing.T, p *place) {
				if p.result.Code == 0 {
					if _, kept := readArchive(t, p.out)[0].files["/o/"+secretOfHost]; !kept {
						t.Error("the file outside of the context was read as .dockerignore")
					}
				}
			}},
		{name: "C3 giant .dockerignore", file: "FROM scratch\nCOPY . /o/\n",
			setup: canary(script("truncate -s 1G .dockerignore")), fails: []string{".dockerignore"}, always: unharmed},
		copying("C4 FIFO is not waited for", ".", script("mkfifo fifo; echo x > f")),
		copying("C4 FIFO by name", "fifo", script("mkfifo fifo")),
		copying("C4 FIFO for ADD", "fifo x", script("mkfifo fifo; echo > x")),
		copying("C4 device by name", "dev", script("mknod dev c 1 5")),
		copying("C4 socket by name", "sock",
			script("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'")),
		{name: "C4 .dockerignore is a FIFO", file: "FROM scratch\nCOPY . /o/\n", setup: canary(script("mkfifo .dockerignore")),
			either: true, always: unharmed},
		{name: "C4 Dockerfile is a FIFO", setup: canary(script("mkfifo Dockerfile")), fails: []string{"Dockerfile"},
			always: unharmed},
		{name: "C1 Dockerfile of an archive is a symlink", context: "-", setup: canary(link("{dir}/canary/file", "Dockerfile")),
			stdin: packed("cat"), fails: []string{"Dockerfile"}, always: unharmed},
		{name: "C1 archive as context that climbs", context: "-",
			setup: canary(script("printf 'FROM scratch\\nCOPY . /o/\\n' > Dockerfile; ln -s {dir}/canary l")),
			stdin: packed("cat"), either: true, always: unharmed},
		{name: "C2 file name of a server that climbs", file: "FROM scratch\nADD {http}/hostile /o/\n", setup: canary(),
			always: unharmed, want: []check{has("/o/hostile", "x\n")}},
		{name: "C2 URL that climbs", file: "FROM scratch\nADD {http}/..%2f..%2fhostile /o/\n", setup: canary(), either: true,
			always: unharmed},
		{name: "C3 symlink of a named context", file: "FROM scratch\nCOPY --from=n l /o/\n",
			setup: canary(script("mkdir $dir/n; ln -s {dir}/canary/file $dir/n/l")),
			args:  []string{"--build-context", "n={dir}/n"}, either: true, always: unharmed},
		{name: "C3 symlink of a stage",
			file: "FROM {base} AS s\nRUN ln -s {dir}/canary /l\nFROM scratch\nCOPY --from=s /l/file /o/\n", setup: canary(),
			either: true, always: unharmed},
	}
}

func hostileGitRows() []row {
	var rows []row
	for i, url := range []string{
		"ssh://-oProxyCommand=touch${IFS}{dir}/pwned/x.git", "ssh://git@-oProxyCommand=touch${IFS}{dir}/pwned:22/x.git",
		"git@-oProxyCommand=touch:x.git", "-oProxyCommand=touch@x:y.git",
		"ext::sh%20-c%20touch%20{dir}/pwned.git", "file://{dir}/canary/x.git", "{git}#--upload-pack=touch${IFS}{dir}/pwned",
		"{git}#-c core.sshCommand=touch", "{git}?ref=--upload-pack=touch%20{dir}/pwned",
		"{git}?branch=--exec=touch", "{git}?commit=--output={dir}/pwned", "{git}#main:../../..", "{git}#main:/..",
		"{git}?subdir=../../../../../..{dir}/canary", "{git}#:.git", "{git}#main:.git/hooks", "{git}#a..b",
		"{git}#refs/heads/../../x", "{git}#@{-1}",
		"http://x/--upload-pack=touch.git", "git://-oProxyCommand=x/y.git", "{git}#$(touch {dir}/pwned)",
		"{git}#`touch {dir}/pwned`", "{git}#main\x01", "ssh://x;touch${IFS}{dir}/pwned/y.git",
	} {
		url = strings.ReplaceAll(url, "${IFS}", `\${IFS}`)
		url = strings.ReplaceAll(url, "$(", `\$(`)
		rows = append(rows,
			row{name: fmt.Sprintf("C5 URL %d", i+1), file: fmt.Sprintf("FROM scratch\nADD [%q, \"/o/\"]\n", url),
				setup: canary(), either: true, always: func(t *testing.T, p *place) {
					unharmed(t, p)
					// A subdirectory that climbs ends at the repository's root.
					if p.result.Code == 0 && !strings.Contains(url, "#main:..") && !strings.Contains(url, "#main:/..") {
						t.Errorf("%s was fetched: %v", url, p.result)
					}
				}})
	}
	return rows
}
