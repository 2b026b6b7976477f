package language

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
)

func runRows() []row {
	return []row{
		{name: "shell form", file: "FROM {base}\nRUN echo a  b | tr a c > /o\n",
			want: []check{has("/o", "c b\n"), layers(1), history("RUN /bin/sh -c echo a  b | tr a c > /o # buildkit")}},
		{name: "exec form",
			file: "FROM {base}\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo $0 \\\"$1\\\" > /o\", \"a\", \"$HOME\"]\n",
			want: []check{has("/o", "a $HOME\n")}},
		{name: "exec form is looked up in PATH", file: "FROM {base}\nRUN [\"touch\", \"/o\"]\n", want: []check{has("/o", "")}},
		{name: "over several lines", file: "FROM {base}\nRUN echo one > /o && \\\n    echo two >> /o\n",
			want: []check{has("/o", "one\ntwo\n")}},
		{name: "changes and removals",
			file: "FROM {base}\n" +
				"RUN rm /etc/group; echo x >> /etc/passwd; mkdir -m 700 /d; chown 5:6 /d; chmod 4755 /bin/busybox\n",
			want: []check{lacks("/etc/group"), contains("/etc/passwd", "\nx\n"), mode("/d", 0o700), owner("/d", "5:6"),
				mode("/bin/busybox", 0o4755)}},
		{name: "directory that is made anew", file: "FROM {base}\nRUN rm -r /etc; mkdir /etc; echo x > /etc/new\n",
			want: []check{has("/etc/new", "x\n"), lacks("/etc/passwd")}},
		{name: "that changes nothing", file: "FROM {base}\nRUN true\n", want: []check{layers(1)}},
		{name: "failure", file: "FROM {base}\nRUN exit 42\n", fails: []string{"exit code: 42", "Dockerfile:2"}},
		{name: "program that is not there", file: "FROM {base}\nRUN no-such-program\n", fails: []string{"exit code: 127"}},
		{name: "output is shown", file: "FROM {base}\nRUN echo to-stdout; echo to-stderr >&2\n",
			shows: []string{"to-stdout", "to-stderr"}},
		{name: "environment", file: "FROM {base}\nRUN env | sort > /o\n",
			want: []check{has("/o",
				"HOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSHLVL=1\n")}},
		{name: "is process 1 of its own", file: "FROM {base}\nRUN echo $$ > /o\n", want: []check{has("/o", "1\n")}},
		{name: "mount points leave nothing", file: "FROM {base}\nRUN true\n", want: []check{func(t *testing.T, im *image) {
			for _, name := range im.own() {
				if name != "/" && name != "." {
					t.Errorf("%s is in the layer", name)
				}
			}
		}}},
	}
}

func runFlagTables() []table {
	return []table{{"RUN mount", append(mountRows(), cacheRows()...)}, {"RUN mount secret", secretRows()},
		{"RUN mount ssh", sshRows()}, {"RUN flags", runFlagRows()}}
}

func mountRows() []row {
	files := map[string]string{"a": "1\n", "d/b": "2\n"}
	return []row{
		{name: "bind is the default", file: "FROM {base}\nRUN --mount=target=/m cat /m/a /m/d/b > /o\n", files: files,
			want: []check{has("/o", "1\n2\n"), lacks("/m")}},
		{name: "bind source", file: "FROM {base}\nRUN --mount=type=bind,source=d,target=/m cat /m/b > /o\n", files: files,
			want: []check{has("/o", "2\n")}},
		{name: "bind src and dst and destination",
			file: "FROM {base}\nRUN --mount=src=d,dst=/m --mount=src=a,destination=/f cat /f /m/b > /o\n", files: files,
			want: []check{has("/o", "1\n2\n")}},
		{name: "bind of a file", file: "FROM {base}\nRUN --mount=source=a,target=/f cat /f > /o\n", files: files,
			want: []check{has("/o", "1\n"), lacks("/f")}},
		{name: "bind from a stage",
			file:  "FROM scratch AS s\nCOPY a /x/a\nFROM {base}\nRUN --mount=from=s,source=/x,target=/m cat /m/a > /o\n",
			files: files, want: []check{has("/o", "1\n")}},
		{name: "bind from an image", file: "FROM {base}\nRUN --mount=from={base},source=/etc,target=/m cp /m/group /o\n",
			want: []check{contains("/o", "root:x:0:")}},
		{name: "bind is read-only", file: "FROM {base}\nRUN --mount=target=/m touch /m/x\n", files: files,
			fails: []string{"Read-only file system"}},
		{name: "bind rw discards what is written",
			file:  "FROM {base}\nRUN --mount=target=/m,rw echo x > /m/new; cp /m/new /o\nRUN --mount=target=/m ls /m > /p\n",
			files: files, want: []check{has("/o", "x\n"), has("/p", "a\nd\n")}},
		{name: "bind readwrite and ro and readonly",
			file: "FROM {base}\nRUN --mount=target=/m,readwrite touch /m/x\nRUN --mount=target=/m,ro ! touch /m/x\n" +
				"RUN --mount=target=/m,readonly=true ! touch /m/x\n",
			files: files, want: []check{layers(3)}},
		{name: "bind target relative to WORKDIR", file: "FROM {base}\nWORKDIR /w\nRUN --mount=target=m cat /w/m/a > /o\n",
			files: files, want: []check{has("/o", "1\n"), lacks("/w/m")}},
		{name: "bind source that is not there", file: "FROM {base}\nRUN --mount=source=nope,target=/m true\n", files: files,
			fails: []string{"nope", "Dockerfile:2"}},
		{name: "bind without a target", file: "FROM {base}\nRUN --mount=type=bind true\n",
			fails: []string{"target", "Dockerfile:2"}},
		{name: "bind over the root", file: "FROM {base}\nRUN --mount=target=/ true\n", fails: []string{`invalid mount target "/"`}},
		{name: "bind from a stage is in the cache key by content", files: map[string]string{"bust": "1", "in": "2"},
			file: "FROM {base} AS s\nCOPY bust /\nCOPY in /out/\nFROM {base}\n" +
				"RUN --mount=from=s,source=out,target=/m,rw head -c 16 /dev/urandom | od -x > /o\n",
			after: func(t *testing.T, p *place, ims []*image) {
				p.write("bust", "3")
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x"})[0])
				p.write("in", "4")
				if p.rebuild(row{file: "x"})[0].files["/o"].data == ims[0].files["/o"].data {
					t.Error("the step was answered from the cache")
				}
			}},
		{name: "bind is in the cache key by content",
			file: "FROM {base}\nRUN --mount=target=/m head -c 16 /dev/urandom | od -x > /o\n", files: files,
			after: func(t *testing.T, p *place, ims []*image) {
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x"})[0])
				p.write("a", "changed\n")
				if p.rebuild(row{file: "x"})[0].files["/o"].data == ims[0].files["/o"].data {
					t.Error("the step was answered from the cache")
				}
			}},
		{name: "tmpfs",
			file: "FROM {base}\nRUN --mount=type=tmpfs,target=/m stat -f -c %T /m > /o; echo x > /m/f\nRUN ls -d /m || true\n",
			want: []check{has("/o", "tmpfs\n"), lacks("/m")}},
		{name: "tmpfs size",
			file: "FROM {base}\nRUN --mount=type=tmpfs,target=/m,size=1m df -k /m | awk 'END{print $2}' > /o\n",
			want: []check{has("/o", "1024\n")}},
		{name: "values with quotes and commas",
			file:  "FROM {base}\nRUN --mount='type=bind,\"source=a,b\",target=/m' cat /m > /o\n",
			files: map[string]string{"a,b": "quoted\n"}, want: []check{has("/o", "quoted\n")}},
		{name: "several", file: "FROM {base}\nRUN --mount=type=tmpfs,target=/m --mount=source=a,target=/m/a cat /m/a > /o\n",
			files: files, want: []check{has("/o", "1\n")}},
		{name: "not a size", file: "FROM {base}\nRUN --mount=type=tmpfs,target=/m,size=big true\n", fails: []string{"size"}},
	}
}

// cacheRows have an id of their own each, because they share a store.
func cacheRows() []row {
	return []row{
		{name: "cache is kept",
			file: "FROM {base}\nRUN --mount=type=cache,target=/c/kept echo x > /c/kept/f\n" +
				"RUN --mount=type=cache,target=/c/kept cp /c/kept/f /o\n",
			want: []check{has("/o", "x\n"), lacks("/c/kept/f", "/c/kept")}},
		{name: "cache id",
			file: "FROM {base}\nRUN --mount=type=cache,target=/a,id=c1 echo x > /a/f\n" +
				"RUN --mount=type=cache,target=/b,id=c1 cp /b/f /o\nRUN --mount=type=cache,target=/a,id=c2 ls /a > /p\n",
			want: []check{has("/o", "x\n"), has("/p", "")}},
		{name: "cache mode uid gid",
			file: "FROM {base}\nRUN --mount=type=cache,target=/a,id=c3,mode=0710,uid=5,gid=6 stat -c '%a %u %g' /a > /o\n" +
				"RUN --mount=type=cache,target=/a,id=c4 stat -c '%a %u %g' /a > /p\n",
			want: []check{has("/o", "710 5 6\n"), has("/p", "755 0 0\n")}},
		{name: "cache of another mode or owner is another", file: "FROM {base}\nRUN --mount=type=cache,id={dir},target=/c touch /c/plain\n" +
			"RUN --mount=type=cache,id={dir},target=/c,uid=10 touch /c/ten\nRUN --mount=type=cache,id={dir},target=/c,mode=700 touch /c/mode\n" +
			"RUN --mount=type=cache,id={dir},target=/c,uid=10,gid=0,mode=755 ls /c > /t\nRUN --mount=type=cache,id={dir},target=/c ls /c > /p\n" +
			"RUN --mount=type=cache,id={dir},target=/c,mode=0700 ls /c > /m\n",
			want: []check{has("/t", "ten\n"), has("/p", "plain\n"), has("/m", "mode\n")}},
		{name: "cache ro", file: "FROM {base}\nRUN --mount=type=cache,target=/a,id=c5,ro ! touch /a/x\n", want: []check{layers(1)}},
		{name: "cache from and source",
			file: "FROM scratch AS s\nCOPY <<E /x/f\nseed\nE\nFROM {base}\n" +
				"RUN --mount=type=cache,target=/a,id=c6,from=s,source=/x cp /a/f /o; echo new > /a/f\n" +
				"RUN --mount=type=cache,target=/a,id=c6,from=s,source=/x cp /a/f /p\n",
			want: []check{has("/o", "seed\n"), has("/p", "new\n")}},
		{name: "cache sharing=locked",
			file: "FROM {base} AS a\n" + counting("c7", "locked") + "FROM {base} AS b\nRUN true\n" + counting("c7",
				"locked") + "FROM {base}\nCOPY --from=a /o /a\nCOPY --from=b /o /b\n",
			want: []check{has("/a", "alone\n"), has("/b", "alone\n")}},
		{name: "cache sharing=private",
			file: "FROM {base} AS a\n" + meeting("c8", "private", "a", "b") + "FROM {base} AS b\n" + meeting("c8", "private",
				"b", "a") + "FROM {base}\nCOPY --from=a /o /a\nCOPY --from=b /o /b\n",
			want: []check{has("/a", "alone\n"), has("/b", "alone\n")}},
		{name: "cache sharing=shared",
			file: "FROM {base} AS a\n" + meeting("c9", "shared", "a", "b") + "FROM {base} AS b\n" + meeting("c9", "shared", "b",
				"a") + "FROM {base}\nCOPY --from=a /o /a\nCOPY --from=b /o /b\n",
			want: []check{has("/a", "met\n"), has("/b", "met\n")}},
		{name: "cache sharing that is none", file: "FROM {base}\nRUN --mount=type=cache,target=/a,sharing=sometimes true\n",
			fails: []string{"sometimes", "Dockerfile:2"}},
		{name: "cache is no part of the cache key",
			file: "FROM {base}\nRUN --mount=type=cache,target=/a,id=c10 date +%N%s > /a/f; cp /a/f /o\n",
			after: func(t *testing.T, p *place, ims []*image) {
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x"})[0])
			}},
	}
}

// counting is a RUN that notices whether another has the cache mount at the same time.
func counting(id, sharing string) string {
	return "RUN --mount=type=cache,target=/c,id=" + id + ",sharing=" + sharing +
		" mkdir /c/busy && sleep 0.3 && rmdir /c/busy && echo alone > /o\n"
}

// meeting is a RUN that waits for a sign of the other's in the cache mount; a tmpfs-like cache of another id tells when both are there.
func meeting(id, sharing, me, other string) string {
	return "RUN --mount=type=cache,target=/c,id=" + id + ",sharing=" + sharing + " " +
		"--mount=type=cache,target=/s,id=" + id + "-sign" +
		" touch /c/" + me + " /s/" + me + "; for i in $(seq 200); do [ -e /s/" + other + " ] && break; sleep 0.05; done;" +
		" if [ -e /c/" + other + " ]; then echo met > /o; else echo alone > /o; fi; touch /s/" + me + "-looked;" +
		" for i in $(seq 200); do [ -e /s/" + other + "-looked ] && break; sleep 0.05; done\n"
}

func secretRows() []row {
	file := script("printf 's3cret' > $dir/secret")
	arg := []string{"--secret", "id=key,src={dir}/secret"}
	return []row{
		{name: "file", file: "FROM {base}\nRUN --mount=type=secret,id=key cat /run/secrets/key | tr s S > /o\n", setup: file,
			args: arg, want: []check{has("/o", "S3cret"), lacks("/run/secrets/key", "/run/secrets")}},
		{name: "target", file: "FROM {base}\nRUN --mount=type=secret,id=key,target=/etc/k cat /etc/k | tr s S > /o\n",
			setup: file, args: arg, want: []check{has("/o", "S3cret"), lacks("/etc/k")}},
		{name: "id from the target", file: "FROM {base}\nRUN --mount=type=secret,target=/etc/key cat /etc/key | tr s S > /o\n",
			setup: file, args: arg, want: []check{has("/o", "S3cret")}},
		{name: "mode uid gid",
			file: "FROM {base}\n" +
				"RUN --mount=type=secret,id=key,mode=0440,uid=5,gid=6 stat -c '%a %u %g' /run/secrets/key > /o\n",
			setup: file, args: arg, want: []check{has("/o", "440 5 6\n")}},
		{name: "default mode and owner",
			file: "FROM {base}\nRUN --mount=type=secret,id=key stat -c '%a %u %g' /run/secrets/key > /o\n", setup: file,
			args: arg, want: []check{has("/o", "400 0 0\n")}},
		{name: "env",
			file: "FROM {base}\n" +
				"RUN --mount=type=secret,id=key,env=KEY echo $KEY | tr s S > /o; ls /run/secrets/key || echo none >> /o\n",
			setup: file, args: arg, want: []check{has("/o", "S3cret\nnone\n"), env()}},
		{name: "env and target",
			file: "FROM {base}\n" +
				"RUN --mount=type=secret,id=key,env=KEY,target=/k [ \"$KEY\" = \"$(cat /k)\" ] && echo same > /o\n",
			setup: file, args: arg, want: []check{has("/o", "same\n")}},
		{name: "from the environment", file: "FROM {base}\nRUN --mount=type=secret,id=key cat /run/secrets/key | tr s S > /o\n",
			args: []string{"--secret", "id=key,env=OUTSIDE"}, env: []string{"OUTSIDE=s3cret"},
			want: []check{has("/o", "S3cret")}},
		{name: "required", file: "FROM {base}\nRUN --mount=type=secret,id=key,required true\n",
			fails: []string{"secret key: not found", "--secret id=key", "Dockerfile:2"}},
		{name: "not required and not given",
			file: "FROM {base}\nRUN --mount=type=secret,id=key ls /run/secrets/key || echo none > /o\n",
			want: []check{has("/o", "none\n")}},
		{name: "value is not in the cache key",
			file: "FROM {base}\nRUN --mount=type=secret,id=key head -c 16 /dev/urandom | od -x > /o\n", setup: file, args: arg,
			after: func(t *testing.T, p *place, ims []*image) {
				script("printf other > $dir/secret")(t, p)
				has("/o", ims[0].files["/o"].data)(t, p.rebuild(row{file: "x", args: arg})[0])
			}},
		{name: "value is nowhere in the image",
			file: "FROM {base}\nRUN --mount=type=secret,id=key --mount=type=secret,id=key,env=K true\n", setup: file, args: arg,
			after: func(t *testing.T, p *place, _ []*image) {
				data, err := os.ReadFile(p.out)
				if err != nil || strings.Contains(string(data), "s3cret") || strings.Contains(p.result.Stderr, "s3cret") {
					t.Errorf("the secret is there (%v)", err)
				}
			}},
		{name: "without id and target", file: "FROM {base}\nRUN --mount=type=secret true\n",
			fails: []string{"one of source, target required"}},
	}
}

func sshRows() []row {
	agent := func(t *testing.T, p *place) { startAgent(t, p) }
	arg := []string{"--ssh", "default={dir}/agent.sock"}
	return []row{
		{name: "socket of the agent", setup: agent, args: arg,
			file: "FROM {base}\nRUN --mount=type=ssh stat -c '%F %a %u %g' $SSH_AUTH_SOCK > /o; echo $SSH_AUTH_SOCK >> /o\n",
			want: []check{has("/o", "socket 600 0 0\n/run/buildkit/ssh_agent.0\n"), lacks("/run/buildkit")}},
		{name: "agent answers", setup: func(t *testing.T, p *place) { startAgent(t, p); withClient(t, p) }, args: arg,
			file: "FROM {base}\nCOPY . /\nRUN --mount=type=ssh /ssh-add -l > /o\n",
			want: []check{contains("/o", "key-of-the-test")}},
		{name: "id target mode uid gid", setup: agent, args: []string{"--ssh", "work={dir}/agent.sock"},
			file: "FROM {base}\n" +
				"RUN --mount=type=ssh,id=work,target=/a.sock,mode=0660,uid=5,gid=6 stat -c '%F %a %u %g' /a.sock > /o\n",
			want: []check{has("/o", "socket 660 5 6\n"), lacks("/a.sock")}},
		{name: "default agent of the environment", setup: agent, args: []string{"--ssh", "default"},
			env:  []string{"SSH_AUTH_SOCK={dir}/agent.sock"},
			file: "FROM {base}\nRUN --mount=type=ssh stat -c %F $SSH_AUTH_SOCK > /o\n", want: []check{has("/o", "socket\n")}},
		{name: "required", file: "FROM {base}\nRUN --mount=type=ssh,required true\n",
			fails: []string{"ssh agent default: not given", "--ssh default"}},
		{name: "not required and not given",
			file: "FROM {base}\nRUN --mount=type=ssh [ -e \"$SSH_AUTH_SOCK\" ] || echo none > /o\n",
			want: []check{has("/o", "none\n")}},
	}
}

// startAgent starts a real ssh-agent with a key in it.
func startAgent(t *testing.T, p *place) {
	t.Helper()
	sock := filepath.Join(p.dir, "agent.sock")
	cmd := exec.Command("ssh-agent", "-D", "-a", sock)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	harness.WaitFor(t, 10*time.Second, "the agent listens", func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	harness.Run(t, "sh", "-euc",
		`cd "$1"; ssh-keygen -q -t ed25519 -N '' -C key-of-the-test -f key; SSH_AUTH_SOCK=$PWD/agent.sock ssh-add -q key`, "sh",
		p.dir)
}

// withClient puts this machine's ssh-add with its libraries into the context.
func withClient(t *testing.T, p *place) {
	t.Helper()
	script(`cp /usr/bin/ssh-add .; for f in $(ldd /usr/bin/ssh-add | grep -o '/[^ ]*'); do mkdir -p .$(dirname $f); cp -L $f .$f; done`)(t,
		p)
}

func runFlagRows() []row {
	return []row{
		{name: "--network=none", file: "FROM {base}\nRUN --network=none ls /sys/class/net > /o\n",
			want: []check{has("/o", "lo\n")}},
		{name: "--network=default", file: "FROM {base}\nRUN --network=default true\n", want: []check{layers(1)}},
		{name: "--network=host needs the entitlement", file: "FROM {base}\nRUN --network=host true\n",
			fails: []string{"network.host is not allowed", "--allow network.host", "Dockerfile:2"}},
		{name: "--network=host", file: "FROM {base}\nRUN --network=host true\n", args: []string{"--allow", "network.host"},
			want: []check{layers(1)}},
		{name: "--network that is none", file: "FROM {base}\nRUN --network=some true\n", fails: []string{"some", "Dockerfile:2"}},
		{name: "--network of the command line", file: "FROM {base}\nRUN ls /sys/class/net > /o\n",
			args: []string{"--network", "none"}, want: []check{has("/o", "lo\n")}},
		{name: "--security=sandbox", file: "FROM {base}\nRUN --security=sandbox grep CapEff /proc/self/status > /o\n",
			want: []check{contains("/o", "a80425fb")}},
		{name: "--security=insecure needs the entitlement", file: "FROM {base}\nRUN --security=insecure true\n",
			fails: []string{"security.insecure is not allowed", "--allow security.insecure", "Dockerfile:2"}},
		{name: "--security=insecure", file: "FROM {base}\nRUN --security=insecure grep CapEff /proc/self/status > /o\n",
			args: []string{"--allow", "security.insecure"}, want: []check{contains("/o", "000001ff")}},
		{name: "--security that is none", file: "FROM {base}\nRUN --security=lax true\n", fails: []string{"lax"}},
		{name: "--device", file: "FROM {base}\nRUN --device=vendor.com/d=1 true\n", fails: []string{"device", "Dockerfile:2"}},
		{name: "misspelled", file: "FROM {base}\nRUN --netwrok=none true\n", fails: []string{"unknown flag: --netwrok", "network"}},
		{name: "--add-host", file: "FROM {base}\nRUN grep there /etc/hosts > /o\n",
			args: []string{"--add-host", "there:10.1.2.3"}, want: []check{contains("/o", "10.1.2.3"), lacks("/etc/hosts")}},
		{name: "--ulimit", file: "FROM {base}\nRUN ulimit -n > /o; ulimit -Hn >> /o\n",
			args: []string{"--ulimit", "nofile=100:200"}, want: []check{has("/o", "100\n200\n")}},
		{name: "--shm-size", file: "FROM {base}\nRUN df -k /dev/shm | awk 'END{print $2}' > /o\n",
			args: []string{"--shm-size", "2m"}, want: []check{has("/o", "2048\n")}},
	}
}
