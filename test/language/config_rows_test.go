package language

import (
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

func cmdRows() []row {
	return []row{
		{name: "shell form", file: "FROM {base}\nCMD echo $HOME \"a b\"\n",
			want: []check{cmd("/bin/sh", "-c", `echo $HOME "a b"`)}},
		{name: "exec form", file: "FROM {base}\nCMD [\"echo\", \"$HOME\"]\n",
			want: []check{cmd("echo", "$HOME"), history(`CMD ["echo" "$HOME"]`)}},
		{name: "last wins", file: "FROM {base}\nCMD one\nCMD [\"two\"]\n", want: []check{cmd("two")}},
		{name: "empty", file: "FROM {base}\nCMD []\n", want: []check{noCmd}},
		{name: "broken JSON is the shell's", file: "FROM {base}\nCMD [\"echo\", 'x']\n",
			want: []check{cmd("/bin/sh", "-c", `["echo", 'x']`)}},
		{name: "of the base", file: "FROM {base}\nLABEL a=b\n", want: []check{cmd("sh")}},
		{name: "makes no layer", file: "FROM {base}\nCMD x\n", want: []check{layers(0)}},
	}
}

func noCmd(t *testing.T, im *image) {
	t.Helper()
	if c := im.config.Config.Cmd; len(c) != 0 {
		t.Errorf("Cmd is %q", c)
	}
}

func entrypointRows() []row {
	return []row{
		{name: "shell form", file: "FROM {base}\nENTRYPOINT run $X\n", want: []check{entrypoint("/bin/sh", "-c", "run $X")}},
		{name: "exec form", file: "FROM {base}\nENTRYPOINT [\"run\", \"it\"]\n", want: []check{entrypoint("run", "it")}},
		{name: "takes the CMD of the base away", file: "FROM {base}\nENTRYPOINT [\"run\"]\n",
			want: []check{entrypoint("run"), noCmd}},
		{name: "keeps a CMD of the same stage", file: "FROM {base}\nCMD [\"it\"]\nENTRYPOINT [\"run\"]\n",
			want: []check{entrypoint("run"), cmd("it")}},
		{name: "last wins", file: "FROM {base}\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n", want: []check{entrypoint("b")}},
	}
}

func labelRows() []row {
	return []row{
		{name: "pairs", file: "FROM scratch\nLABEL a=1 b.c=\"two words\" d='$x'\n",
			want: []check{label("a", "1"), label("b.c", "two words"), label("d", "$x")}},
		{name: "legacy form", file: "FROM scratch\nLABEL a one two\n", want: []check{label("a", "one two")}},
		{name: "quoted name", file: "FROM scratch\nLABEL \"a b\"=1\n", want: []check{label("a b", "1")}},
		{name: "over several lines", file: "FROM scratch\nLABEL a=1 \\\n  b=2\n", want: []check{label("a", "1"), label("b", "2")}},
		{name: "variables", file: "FROM scratch\nARG v=1\nLABEL a=$v \"k$v\"=x\n",
			want: []check{label("a", "1"), label("k1", "x")}},
		{name: "later wins", file: "FROM scratch\nLABEL a=1\nLABEL a=2\n", want: []check{label("a", "2")}},
		{name: "--label", file: "FROM scratch\nLABEL a=1\n", args: []string{"--label", "a=cli", "--label", "b=c"},
			want: []check{label("a", "cli"), label("b", "c")}},
		{name: "without a value", file: "FROM scratch\nLABEL a\n",
			fails: []string{"LABEL must have two arguments", "Dockerfile:2"}},
		{name: "with a blank name", file: "FROM scratch\nLABEL =1\n", fails: []string{"LABEL names can not be blank"}},
	}
}

func envRows() []row {
	return []row{
		{name: "pairs", file: "FROM {base}\nENV a=1 b=\"two words\" c='x y' d=e\\ f\n",
			want: []check{env("a=1", "b=two words", "c=x y", "d=e f")}},
		{name: "legacy form", file: "FROM {base}\nENV a one two\n", want: []check{env("a=one two")}},
		{name: "same line uses the values before it", file: "FROM {base}\nENV a=1\nENV a=2 b=$a\nENV c=$a\n",
			want: []check{env("a=2", "b=1", "c=2")}},
		{name: "in RUN", file: "FROM {base}\nENV greeting=\"hello you\"\nRUN echo \"$greeting\" > /o\n",
			want: []check{has("/o", "hello you\n")}},
		{name: "order is that of the first mention", file: "FROM {base}\nENV a=1\nENV b=2\nENV a=3\n",
			want: []check{env("a=3", "b=2")}},
		{name: "empty value", file: "FROM {base}\nENV a=\n", want: []check{env("a=")}},
		{name: "PATH is extended", file: "FROM {base}\nENV PATH=/opt:$PATH\n",
			want: []check{config("PATH=/opt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				func(c *dockerspec.DockerOCIImage) any { return c.Config.Env[0] })}},
		{name: "wins over an earlier ARG", file: "FROM {base}\nARG a=arg\nENV a=env\nRUN echo $a > /o\n",
			args: []string{"--build-arg", "a=cli"}, want: []check{has("/o", "env\n")}},
		{name: "without a value", file: "FROM {base}\nENV a\n", fails: []string{"ENV must have two arguments"}},
		{name: "blank name", file: "FROM {base}\nENV =1\n", fails: []string{"ENV names can not be blank"}},
		{name: "pair without a value among pairs", file: "FROM {base}\nENV a=1 b\n", fails: []string{`can't find = in "b"`}},
	}
}

func argRows() []row {
	return []row{
		{name: "default", file: "FROM {base}\nARG a=1\nRUN echo $a > /o\n", want: []check{has("/o", "1\n"), env()}},
		{name: "--build-arg", file: "FROM {base}\nARG a=1\nRUN echo $a > /o\n", args: []string{"--build-arg", "a=2"},
			want: []check{has("/o", "2\n")}},
		{name: "--build-arg from the environment", file: "FROM {base}\nARG a\nRUN echo $a > /o\n",
			args: []string{"--build-arg", "a"}, env: []string{"a=outside"}, want: []check{has("/o", "outside\n")}},
		{name: "several on a line", file: "FROM {base}\nARG a=1 b c=3\nRUN echo $a$b$c > /o\n",
			args: []string{"--build-arg", "b=2"}, want: []check{has("/o", "123\n")}},
		{name: "default made of others", file: "FROM {base}\nARG a=1\nARG b=${a}2\nRUN echo $b > /o\n",
			want: []check{has("/o", "12\n")}},
		{name: "before FROM", file: "ARG a=1\nFROM {base}\nRUN echo \"[$a]\" > /o\nARG a\nRUN echo \"[$a]\" >> /o\n",
			want: []check{has("/o", "[]\n[1]\n")}},
		{name: "not before its line", file: "FROM {base}\nRUN echo \"[$a]\" > /o\nARG a=1\n",
			args: []string{"--build-arg", "a=2"}, want: []check{has("/o", "[]\n")}},
		{name: "inherited by a stage that starts from it", file: "FROM {base} AS x\nARG a=1\nFROM x\nRUN echo \"[$a]\" > /o\n",
			want: []check{has("/o", "[1]\n")}},
		{name: "not seen by other stages", file: "FROM scratch AS x\nARG a=1\nFROM {base}\nRUN echo \"[$a]\" > /o\n",
			args: []string{"--build-arg", "a=2"}, want: []check{has("/o", "[]\n")}},
		{name: "wins over an earlier ENV", file: "FROM {base}\nENV a=env\nARG a=arg\nRUN echo $a > /o\n",
			want: []check{has("/o", "arg\n"), env("a=env")}},
		{name: "in the history", file: "FROM {base}\nARG a=1\nRUN true\n",
			want: []check{history("RUN |1 a=1 /bin/sh -c true # buildkit")}},
		{name: "predefined proxies need no ARG", file: "FROM {base}\nRUN echo $HTTP_PROXY $no_proxy > /o\n",
			args: []string{"--build-arg", "http_proxy=http://p", "--build-arg", "NO_PROXY=x"},
			want: []check{has("/o", "http://p x\n"), history("RUN /bin/sh -c echo $HTTP_PROXY $no_proxy > /o # buildkit")}},
		{name: "predefined proxies are not in the cache key", file: "FROM {base}\nRUN head -c 16 /dev/urandom | od -x > /o\n",
			args: []string{"--build-arg", "http_proxy=http://p"},
			after: func(t *testing.T, p *place, ims []*image) {
				again := p.rebuild(row{file: "x", args: []string{"--build-arg", "http_proxy=http://q"}})
				has("/o", ims[0].files["/o"].data)(t, again[0])
			}},
		{name: "platform",
			file: "FROM {base}\nARG TARGETPLATFORM\nARG TARGETOS\nARG TARGETARCH\nARG TARGETVARIANT\nARG BUILDPLATFORM\n" +
				"RUN echo $TARGETPLATFORM $TARGETOS $TARGETARCH \"[$TARGETVARIANT]\" > /o\n",
			want: []check{contains("/o", "linux/"), contains("/o", " linux ")}},
		{name: "platform without ARG", file: "FROM {base}\nRUN echo \"[$TARGETPLATFORM]\" > /o\n",
			want: []check{has("/o", "[]\n")}},
		{name: "TARGETSTAGE", file: "FROM scratch AS last\nARG TARGETSTAGE\nLABEL s=$TARGETSTAGE\n",
			want: []check{label("s", "last")}},
		{name: "SOURCE_DATE_EPOCH",
			file: "FROM {base}\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /o\nCOPY <<E /f\nE\n",
			args: []string{"--build-arg", "SOURCE_DATE_EPOCH=1000000000"},
			want: []check{has("/o", "1000000000\n"), changed("/f", 1000000000), createdAt(1000000000)}},
		{name: "SOURCE_DATE_EPOCH of the environment", file: "FROM scratch\nCOPY <<E /f\nE\n",
			env: []string{"SOURCE_DATE_EPOCH=1000000000"}, want: []check{changed("/f", 1000000000), createdAt(1000000000)}},
		{name: "SOURCE_DATE_EPOCH after a build without it",
			file: "FROM scratch\nWORKDIR /after\nCOPY <<E /after/f\nafter\nE\n",
			after: func(t *testing.T, p *place, _ []*image) {
				im := p.rebuild(row{file: "x", env: []string{"SOURCE_DATE_EPOCH=1000000000"}})[0]
				changed("/after", 1000000000)(t, im)
				changed("/after/f", 1000000000)(t, im)
			}},
		{name: "SOURCE_DATE_EPOCH with rewrite-timestamp",
			file: "FROM {base}\nRUN touch -d @4102444800 /new; touch -d @631152000 /old\n",
			args: []string{"--build-arg", "SOURCE_DATE_EPOCH=1000000000", "--output",
				"type=oci,dest={dir}/rewritten.tar,rewrite-timestamp=true"},
			after: func(t *testing.T, p *place, _ []*image) {
				im := readArchive(t, p.dir+"/rewritten.tar")[0]
				changed("/new", 1000000000)(t, im)
				changed("/old", 631152000)(t, im)
			}},
		{name: "SOURCE_DATE_EPOCH of the context", context: "{git}", args: []string{"--build-arg", "SOURCE_DATE_EPOCH=context"},
			want: []check{createdAt(1580702706)}},
		{name: "SOURCE_DATE_EPOCH that is no number", file: "FROM scratch\n",
			args: []string{"--build-arg", "SOURCE_DATE_EPOCH=noon"}, fails: []string{"SOURCE_DATE_EPOCH", "noon"}},
		{name: "BUILDKIT_SANDBOX_HOSTNAME", file: "FROM {base}\nRUN hostname > /o\n",
			args: []string{"--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=box"}, want: []check{has("/o", "box\n")}},
		{name: "BUILDKIT_SYNTAX", file: "FROM scratch\n", args: []string{"--build-arg", "BUILDKIT_SYNTAX=example.com/other"},
			fails: []string{"example.com/other", "frontends are not run"}},
		{name: "BUILDKIT_DOCKERFILE_CHECK", file: "from scratch\nMAINTAINER x\n",
			args: []string{"--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all"}, hides: []string{"MaintainerDeprecated"}},
		{name: "BUILDKIT_CACHE_MOUNT_NS",
			file: "FROM {base}\nRUN --mount=type=cache,target=/c,id=ns-test ls /c > /o; echo x > /c/f\n",
			args: []string{"--build-arg", "BUILDKIT_CACHE_MOUNT_NS=one"},
			after: func(t *testing.T, p *place, _ []*image) {
				args := func(ns string) []string {
					return []string{"--no-cache", "--build-arg", "BUILDKIT_CACHE_MOUNT_NS=" + ns}
				}
				has("/o", "f\n")(t, p.rebuild(row{file: "x", args: args("one")})[0])
				has("/o", "")(t, p.rebuild(row{file: "x", args: args("two")})[0])
			}},
		{name: "BUILDKIT_MULTI_PLATFORM", file: "FROM scratch\nLABEL a=b\n",
			args: []string{"--build-arg", "BUILDKIT_MULTI_PLATFORM=1"}, after: func(t *testing.T, p *place, ims []*image) {
				label("a", "b")(t, ims[0])
				if !ims[0].inIndex {
					t.Error("there is no index")
				}
			}},
		{name: "BUILDKIT_MULTI_PLATFORM that conflicts", file: "FROM scratch\n",
			args:  []string{"--build-arg", "BUILDKIT_MULTI_PLATFORM=0", "--platform", "linux/amd64,linux/arm64"},
			fails: []string{"BUILDKIT_MULTI_PLATFORM"}, usage: true},
		{name: "BUILDKIT_INLINE_CACHE", file: "FROM scratch\nCOPY <<E /f\nE\n",
			args: []string{"--build-arg", "BUILDKIT_INLINE_CACHE=1"}, after: func(t *testing.T, p *place, ims []*image) {
				if ims[0].fields["cairn.cache.v1"] == nil {
					t.Error("there is no cache in the config")
				}
			}},
		{name: "BUILDKIT_INLINE_CACHE that is neither true nor false", file: "FROM scratch\n",
			args: []string{"--build-arg", "BUILDKIT_INLINE_CACHE=maybe"}, fails: []string{"BUILDKIT_INLINE_CACHE", "maybe"}, usage: true},
		{name: "BUILDKIT_SBOM_SCAN_STAGE",
			file: "FROM {base}\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN echo \"[$BUILDKIT_SBOM_SCAN_STAGE]\" > /o\n",
			want: []check{has("/o", "[]\n")}},
		{name: "that nobody declares", file: "FROM scratch\nLABEL a=b\n", args: []string{"--build-arg", "nobody=1"},
			shows: []string{"nobody"}},
		{name: "blank name", file: "FROM scratch\nARG =1\n", fails: []string{"ARG"}},
	}
}

func createdAt(want int64) check {
	return config(time.Unix(want, 0).UTC(), func(c *dockerspec.DockerOCIImage) any { return c.Created.UTC() })
}

func exposeRows() []row {
	ports := func(want ...string) check {
		return keys(want, func(c *dockerspec.DockerOCIImage) map[string]struct{} { return c.Config.ExposedPorts })
	}
	return []row{
		{name: "port", file: "FROM scratch\nEXPOSE 80\n", want: []check{ports("80/tcp")}},
		{name: "protocol", file: "FROM scratch\nEXPOSE 53/udp 53\n", want: []check{ports("53/tcp", "53/udp")}},
		{name: "range", file: "FROM scratch\nEXPOSE 8000-8002/udp\n", want: []check{ports("8000/udp", "8001/udp", "8002/udp")}},
		{name: "variable", file: "FROM scratch\nARG p=81\nEXPOSE $p\n", want: []check{ports("81/tcp")}},
		{name: "several add up", file: "FROM scratch\nEXPOSE 1\nEXPOSE 2 3\n", want: []check{ports("1/tcp", "2/tcp", "3/tcp")}},
		{name: "not a port", file: "FROM scratch\nEXPOSE eighty\n", fails: []string{"eighty", "Dockerfile:2"}},
		{name: "too high", file: "FROM scratch\nEXPOSE 70000\n", fails: []string{"70000"}},
	}
}

func volumeRows() []row {
	volumes := func(want ...string) check {
		return keys(want, func(c *dockerspec.DockerOCIImage) map[string]struct{} { return c.Config.Volumes })
	}
	return []row{
		{name: "words", file: "FROM scratch\nVOLUME /a /b\n", want: []check{volumes("/a", "/b")}},
		{name: "JSON", file: "FROM scratch\nVOLUME [\"/a\", \"/b c\"]\n", want: []check{volumes("/a", "/b c")}},
		{name: "variable", file: "FROM scratch\nARG v=/x\nVOLUME $v/y\n", want: []check{volumes("/x/y")}},
		{name: "later writes are kept", file: "FROM {base}\nVOLUME /data\nRUN mkdir -p /data; echo kept > /data/f\n",
			want: []check{has("/data/f", "kept\n")}},
		{name: "makes no directory", file: "FROM {base}\nVOLUME /data\n", want: []check{layers(0), lacks("/data")}},
		{name: "empty", file: "FROM scratch\nVOLUME [\"\"]\n", fails: []string{"VOLUME specified can not be an empty string"}},
	}
}

func userRows() []row {
	id := func(as string) string {
		return "FROM {base}\nUSER " + as + "\nRUN id -u > /tmp/o; id -g >> /tmp/o; id -G >> /tmp/o\n"
	}
	return []row{
		{name: "name", file: id("ann"),
			want: []check{user("ann"), has("/tmp/o", "1000\n1000\n1000 50\n"), owner("/tmp/o", "1000:1000")}},
		{name: "uid", file: id("1000"), want: []check{user("1000"), has("/tmp/o", "1000\n1000\n1000 50\n")}},
		{name: "uid that nobody has", file: id("4711"), want: []check{has("/tmp/o", "4711\n0\n0\n")}},
		{name: "uid and gid", file: id("5:6"), want: []check{user("5:6"), has("/tmp/o", "5\n6\n6\n")}},
		{name: "name and group without the other groups of the name", file: id("ann:daemon"),
			want: []check{has("/tmp/o", "1000\n1\n1\n")}},
		{name: "variable", file: "FROM {base}\nARG u=ann\nUSER $u\n", want: []check{user("ann")}},
		{name: "a base's", file: "FROM {base} AS b\nUSER ann\nFROM b\nRUN id -u > /tmp/o\n",
			want: []check{user("ann"), has("/tmp/o", "1000\n")}},
		{name: "COPY stays root's", file: "FROM {base}\nUSER ann\nCOPY <<E /f\nE\n", want: []check{owner("/f", "0:0")}},
		{name: "HOME is the user's", file: "FROM {base}\nUSER ann\nRUN echo $HOME > /tmp/o\n",
			want: []check{has("/tmp/o", "/home\n")}},
		{name: "name that nobody has", file: "FROM {base}\nUSER nobody-here\nRUN true\n",
			fails: []string{"nobody-here", "Dockerfile:3"}},
		{name: "makes no layer", file: "FROM {base}\nUSER ann\n", want: []check{layers(0)}},
	}
}

func workdirRows() []row {
	return []row{
		{name: "absolute", file: "FROM {base}\nWORKDIR /a/b\nRUN pwd > o\n",
			want: []check{workdir("/a/b"), has("/a/b/o", "/a/b\n")}},
		{name: "relative to the one before", file: "FROM {base}\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c\n",
			want: []check{workdir("/a/c"), dir("/a/c"), dir("/a/b")}},
		{name: "relative to a base's", file: "FROM scratch AS a\nWORKDIR /x\nFROM a\nWORKDIR y\n", want: []check{workdir("/x/y")}},
		{name: "is made with its parents", file: "FROM scratch\nWORKDIR /a/b/c\n",
			want: []check{dir("/a"), dir("/a/b"), dir("/a/b/c"), mode("/a", 0o755), owner("/a/b", "0:0")}},
		{name: "belongs to the USER with its parents", file: "FROM {base}\nUSER ann\nWORKDIR /a/b\n",
			want: []check{owner("/a", "1000:1000"), owner("/a/b", "1000:1000")}},
		{name: "that is there is not touched", file: "FROM {base}\nUSER ann\nWORKDIR /tmp\n",
			want: []check{mode("/tmp", 0o1777), owner("/tmp", "0:0")}},
		{name: "variable", file: "FROM scratch\nENV d=/v\nWORKDIR $d/w\n", want: []check{workdir("/v/w"), dir("/v/w")}},
		{name: "with blanks", file: "FROM scratch\nWORKDIR /a b\n", want: []check{workdir("/a b"), dir("/a b")}},
		{name: "is where COPY puts relative names", file: "FROM scratch\nWORKDIR /w\nCOPY <<E f\nx\nE\n",
			want: []check{has("/w/f", "x\n")}},
		{name: "through a symlink", file: "FROM {base}\nRUN ln -s /var /link\nWORKDIR /link/d\nRUN echo x > f\n",
			want: []check{symlink("/link", "/var"), has("/var/d/f", "x\n")}},
		{name: "that is a file", file: "FROM {base}\nWORKDIR /etc/passwd/x\n", fails: []string{"/etc/passwd", "Dockerfile:2"}},
		{name: "empty", file: "FROM scratch\nWORKDIR\n", fails: []string{"WORKDIR requires exactly one argument"}},
	}
}

func onbuildRows() []row {
	return []row{
		{name: "is stored", file: "FROM scratch\nONBUILD RUN make\nONBUILD COPY . /src\n",
			want: []check{onbuild("RUN make", "COPY . /src"), total(0)}},
		{name: "runs in a child", file: "FROM {base} AS b\nONBUILD RUN echo child > /o\nFROM b\nLABEL a=b\n",
			want: []check{has("/o", "child\n"), onbuild()}},
		{name: "does not run in the stage itself", file: "FROM {base}\nONBUILD RUN echo child > /o\n", want: []check{lacks("/o")}},
		{name: "variables are those of the child",
			file: "FROM {base} AS b\nENV v=parent\nONBUILD RUN echo $v $a > /o\nONBUILD ENV w=$v\nFROM b\n",
			want: []check{has("/o", "parent\n"), env("v=parent", "w=parent")}},
		{name: "heredoc", file: "FROM {base} AS b\nONBUILD RUN <<E\necho one > /o\necho two >> /o\nE\nFROM b\n",
			want: []check{has("/o", "one\ntwo\n")}},
		{name: "COPY --from a stage of the child",
			file: "FROM {base} AS b\nONBUILD COPY --from=data /f /g\nFROM scratch AS data\nCOPY <<E /f\nx\nE\nFROM b\n",
			want: []check{has("/g", "x\n")}},
		{name: "grandchildren do not run it", file: "FROM {base} AS a\nONBUILD RUN echo x >> /o\nFROM a AS b\nFROM b\n",
			want: []check{has("/o", "x\n")}},
		{name: "FROM inside", file: "FROM scratch\nONBUILD FROM x\n", fails: []string{"FROM isn't allowed as an ONBUILD trigger"}},
		{name: "MAINTAINER inside", file: "FROM scratch\nONBUILD MAINTAINER x\n",
			fails: []string{"MAINTAINER isn't allowed as an ONBUILD trigger"}},
		{name: "ONBUILD inside", file: "FROM scratch\nONBUILD ONBUILD RUN x\n",
			fails: []string{"Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"}},
	}
}

func stopsignalRows() []row {
	signal := func(want string) check {
		return config(want, func(c *dockerspec.DockerOCIImage) any { return c.Config.StopSignal })
	}
	return []row{
		{name: "name", file: "FROM scratch\nSTOPSIGNAL SIGKILL\n", want: []check{signal("SIGKILL")}},
		{name: "number", file: "FROM scratch\nSTOPSIGNAL 9\n", want: []check{signal("9")}},
		{name: "variable", file: "FROM scratch\nARG s=SIGINT\nSTOPSIGNAL $s\n", want: []check{signal("SIGINT")}},
		{name: "that is none", file: "FROM scratch\nSTOPSIGNAL SIGNOPE\n", fails: []string{"SIGNOPE", "Dockerfile:2"}},
	}
}

func shellRows() []row {
	return []row{
		{name: "for RUN", file: "FROM {base}\nSHELL [\"/bin/sh\", \"-x\", \"-c\"]\nRUN echo $- > /o\n",
			want: []check{contains("/o", "x"), history("RUN /bin/sh -x -c echo $- > /o # buildkit")}},
		{name: "for CMD and ENTRYPOINT", file: "FROM {base}\nSHELL [\"/bin/ash\", \"-c\"]\nENTRYPOINT run\nCMD it\n",
			want: []check{entrypoint("/bin/ash", "-c", "run"), cmd("/bin/ash", "-c", "it")}},
		{name: "is kept in the image", file: "FROM {base}\nSHELL [\"/bin/ash\", \"-c\"]\n",
			want: []check{config([]string{"/bin/ash", "-c"},
				func(c *dockerspec.DockerOCIImage) any { return c.Config.Shell })}},
		{name: "not JSON", file: "FROM {base}\nSHELL /bin/ash -c\n",
			fails: []string{"SHELL requires the arguments to be in JSON form", "Dockerfile:2"}},
		{name: "empty", file: "FROM {base}\nSHELL []\n", fails: []string{"SHELL requires at least one argument"}},
	}
}

func maintainerRows() []row {
	return []row{
		{name: "sets the author", file: "FROM scratch\nMAINTAINER Ann <ann@example.com>\n", want: []check{
			config("Ann <ann@example.com>", func(c *dockerspec.DockerOCIImage) any { return c.Author })},
			shows: []string{"MaintainerDeprecated"}},
	}
}

func healthcheckRows() []row {
	health := func(want dockerspec.HealthcheckConfig) check {
		return config(want, func(c *dockerspec.DockerOCIImage) any {
			if c.Config.Healthcheck == nil {
				return nil
			}
			return *c.Config.Healthcheck
		})
	}
	return []row{
		{name: "shell form", file: "FROM scratch\nHEALTHCHECK CMD curl -f http://localhost\n", want: []check{
			health(dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "curl -f http://localhost"}})}},
		{name: "exec form", file: "FROM scratch\nHEALTHCHECK CMD [\"a\", \"b\"]\n",
			want: []check{health(dockerspec.HealthcheckConfig{Test: []string{"CMD", "a", "b"}})}},
		{name: "NONE", file: "FROM scratch\nHEALTHCHECK NONE\n",
			want: []check{health(dockerspec.HealthcheckConfig{Test: []string{"NONE"}})}},
		{name: "--interval --timeout --start-period --start-interval --retries", want: []check{health(dockerspec.HealthcheckConfig{
			Test: []string{"CMD-SHELL", "true"}, Interval: 1500 * time.Millisecond, Timeout: time.Minute,
			StartPeriod: 2 * time.Hour, StartInterval: time.Second, Retries: 4})},
			file: "FROM scratch\n" +
				"HEALTHCHECK --interval=1.5s --timeout=1m --start-period=2h --start-interval=1s --retries=4 CMD true\n"},
		{name: "zero is the default", file: "FROM scratch\nHEALTHCHECK --interval=0s --retries=0 CMD true\n",
			want: []check{health(dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "true"}})}},
		{name: "shorter than a millisecond", file: "FROM scratch\nHEALTHCHECK --interval=1us CMD true\n",
			fails: []string{"interval", "Dockerfile:2"}},
		{name: "negative retries", file: "FROM scratch\nHEALTHCHECK --retries=-1 CMD true\n", fails: []string{"retries"}},
		{name: "misspelled flag", file: "FROM scratch\nHEALTHCHECK --intervall=1s CMD true\n",
			fails: []string{"unknown flag: --intervall", "interval"}},
		{name: "unknown kind", file: "FROM scratch\nHEALTHCHECK RUN x\n", fails: []string{"Unknown type"}},
		{name: "NONE with a command", file: "FROM scratch\nHEALTHCHECK NONE x\n",
			fails: []string{"HEALTHCHECK NONE takes no arguments"}},
	}
}
