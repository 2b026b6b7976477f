package language

import (
	"runtime"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// total wants so many layers in all.
func total(n int) check {
	return func(t *testing.T, im *image) {
		t.Helper()
		if len(im.layers) != n {
			t.Errorf("%d layers, want %d", len(im.layers), n)
		}
	}
}

// meets waits for a file in the cache mount /c, which another stage makes.
func meets(name string) string {
	return "for i in $(seq 600); do [ -e /c/" + name + " ] && echo met && break; sleep 0.1; done"
}

func fromRows() []row {
	return []row{
		{name: "image", file: "FROM {base}\n",
			want: []check{layers(0), forPlatform("linux/" + runtime.GOARCH), cmd("sh"), dir("/tmp")}},
		{name: "image by digest", file: "FROM {base}@{digest}\n",
			want: []check{layers(0), has("/etc/group", "root:x:0:\ndaemon:x:1:\nann:x:1000:\nstaff:x:50:ann\n")}},
		{name: "scratch", file: "FROM scratch\nCOPY <<E /a\nE\n", want: []check{total(1), has("/a", ""), lacks("/bin")}},
		{name: "scratch alone", file: "FROM scratch\nLABEL a=b\n", want: []check{total(0), label("a", "b")}},
		{name: "AS", file: "FROM scratch AS one\nCOPY <<E /a\nE\nFROM one AS two\nCOPY <<E /b\nE\n",
			want: []check{total(2), has("/a", ""), has("/b", "")}},
		{name: "AS in any case", file: "FROM scratch AS One\nCOPY <<E /a\nE\nFROM one\nCOPY --from=ONE /a /b\n",
			want: []check{has("/a", ""), has("/b", "")}},
		{name: "AS with digits, dots and dashes", file: "FROM scratch AS a1-b_c.d\nENV x=1\nFROM a1-b_c.d\n",
			want: []check{total(0)}},
		{name: "AS with an ill-formed name", file: "FROM scratch AS 1st\n",
			fails: []string{`invalid name for build stage: "1st"`, "Dockerfile:1"}},
		{name: "stage of the same name as an image",
			file:  "FROM scratch AS {registry}\nCOPY <<E /a\nE\nFROM {base} AS base\nFROM base\n",
			fails: []string{"invalid name for build stage"}},
		{name: "later stage of the same name",
			file: "FROM scratch AS a\nENV n=1\nFROM scratch AS a\nENV n=2\nFROM a\nLABEL n=$n\n",
			want: []check{label("n", "2")}},
		{name: "variable in the name", file: "ARG name=nope\nFROM ${name}\n", args: []string{"--build-arg", "name={base}"},
			want: []check{layers(0)}},
		{name: "default of a variable in the name", file: "ARG name={base}\nFROM ${name:-nope}\n", want: []check{layers(0)}},
		{name: "variable that is not set", file: "FROM ${nope}\n", fails: []string{"base name (${nope}) should not be blank"}},
		{name: "platform", file: "FROM --platform=linux/riscv64 scratch\nLABEL a=b\n", want: []check{label("a", "b")}},
		{name: "platform with a variable",
			file: "FROM --platform=$BUILDPLATFORM {base} AS b\nARG TARGETARCH\nRUN echo $TARGETARCH $(uname -m) > /o\n" +
				"FROM scratch\nCOPY --from=b /o /\n",
			args: []string{"--platform", "linux/s390x"},
			want: []check{forPlatform("linux/s390x"), contains("/o", "s390x "), contains("/o", unameMachine())}},
		{name: "platform that is none", file: "FROM --platform=a/b/c/d scratch\n", fails: []string{"a/b/c/d"}},
		{name: "misspelled flag", file: "FROM --platfrom=linux/amd64 scratch\n",
			fails: []string{"unknown flag: --platfrom", "platform", "Dockerfile:1"}},
		{name: "without a name", file: "FROM\n", fails: []string{"FROM requires either one or three arguments", "Dockerfile:1"}},
		{name: "image that is not there", file: "FROM {registry}/none/such:v1\n", fails: []string{"none/such:v1", "Dockerfile:1"}},
		{name: "ill-formed reference", file: "FROM Upper/Case\n", fails: []string{"Upper/Case", "Dockerfile:1"}},
		{name: "instruction before FROM", file: "RUN true\nFROM scratch\n",
			fails: []string{"no build stage in current context", "Dockerfile:1"}},
	}
}

func unameMachine() string {
	if m, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]; ok {
		return m
	}
	return runtime.GOARCH
}

func stageTables() []table {
	return []table{
		{"stages", []row{
			{name: "only what the target needs is built",
				file: "FROM {base} AS broken\nRUN exit 7\nFROM scratch AS other\nCOPY --from=broken / /\nFROM scratch\n" +
					"COPY <<E /a\nE\n",
				want: []check{total(1)}, hides: []string{"exit 7"}},
			{name: "stages that need nothing of each other are built at once", file: "FROM {base} AS a\n" +
				"RUN --mount=type=cache,id={dir},target=/c touch /c/a; " + meets("b") + " > /o\nFROM {base} AS b\n" +
				"RUN --mount=type=cache,id={dir},target=/c touch /c/b; " + meets("a") + " > /o\n" +
				"FROM scratch\nCOPY --from=a /o /a\nCOPY --from=b /o /b\n", want: []check{has("/a", "met\n"), has("/b", "met\n")}},
			{name: "--target by name",
				file: "FROM scratch AS a\nENV n=a\nFROM scratch AS b\nENV n=b\nLABEL n=$n\nFROM scratch\nRUN nope\n",
				args: []string{"--target", "B"}, want: []check{label("n", "b")}},
			{name: "--target by index", file: "FROM scratch\nLABEL n=0\nFROM scratch\nLABEL n=1\n",
				args: []string{"--target", "0"}, want: []check{label("n", "0")}},
			{name: "--target that is not there", file: "FROM scratch AS build\n", args: []string{"--target", "biuld"},
				fails: []string{`target stage "biuld" could not be found`, "did you mean build"}},
			{name: "stage by index", file: "FROM scratch\nCOPY <<E /a\nzero\nE\nFROM scratch\nCOPY --from=0 /a /\n",
				want: []check{has("/a", "zero\n")}},
			{name: "stage by index that is not there", file: "FROM scratch\nCOPY --from=3 /a /\n",
				fails: []string{"invalid stage index 3", "Dockerfile:2"}},
			{name: "stage that comes later", file: "FROM scratch\nCOPY --from=later /a /\nFROM scratch AS later\n",
				args:  []string{"--target", "0"},
				fails: []string{"later"}},
			{name: "stage that copies from itself", file: "FROM scratch AS a\nCOPY --from=a /x /\n",
				fails: []string{"circular dependency"}},
			{name: "environment of the stage below", file: "FROM scratch AS a\nENV v=1\nWORKDIR /w\nUSER 5\nFROM a\nLABEL v=$v\n",
				want: []check{label("v", "1"), workdir("/w"), user("5")}},
			{name: "changes of a stage stay in it",
				file: "FROM {base} AS a\nRUN echo a > /f\nFROM a AS b\nRUN echo b > /f\nFROM a\nCOPY --from=b /f /g\n",
				want: []check{has("/f", "a\n"), has("/g", "b\n")}},
		}},
		{"contexts", contextRows()},
		{"platforms", platformRows()},
	}
}

func contextRows() []row {
	dockerfile := "FROM scratch\nCOPY . /\n"
	return []row{
		{name: "directory", file: dockerfile, files: map[string]string{"a": "1", "d/b": "2"},
			want: []check{has("/a", "1"), has("/d/b", "2"), lacks("/Dockerfile")}},
		{name: "Dockerfile of the context", files: map[string]string{"Dockerfile": dockerfile, "a": "1"},
			want: []check{has("/a", "1"), has("/Dockerfile", dockerfile)}},
		{name: "-f outside of the context", files: map[string]string{"a": "1"},
			setup: script(`printf 'FROM scratch\nCOPY a /\n' > $dir/Other`),
			args:  []string{"-f", "{dir}/Other"}, want: []check{has("/a", "1")}},
		{name: "-f relative to the working directory", files: map[string]string{"d/my.Dockerfile": dockerfile, "a": "1"},
			args: []string{"-f", "ctx/d/my.Dockerfile"}, want: []check{has("/a", "1")}},
		{name: "Dockerfile on standard input with a directory", files: map[string]string{"a": "1"}, args: []string{"-f", "-"},
			stdin: text(dockerfile), want: []check{has("/a", "1")}},
		{name: "Dockerfile on standard input alone", context: "-", stdin: text("FROM scratch\nLABEL a=b\n"),
			want: []check{label("a", "b")}},
		{name: "tar on standard input", context: "-", files: map[string]string{"Dockerfile": dockerfile, "a": "1"},
			stdin: packed("cat"), want: []check{has("/a", "1")}},
		{name: "tar.gz on standard input", context: "-", files: map[string]string{"Dockerfile": dockerfile, "a": "1"},
			stdin: packed("gzip"), want: []check{has("/a", "1")}},
		{name: "tar.bz2 on standard input", context: "-", files: map[string]string{"Dockerfile": dockerfile, "a": "1"},
			stdin: packed("bzip2"), want: []check{has("/a", "1")}},
		{name: "tar.xz on standard input", context: "-", files: map[string]string{"Dockerfile": dockerfile, "a": "1"},
			stdin: packed("xz"), want: []check{has("/a", "1")}},
		{name: "tar.zst on standard input", context: "-", files: map[string]string{"Dockerfile": dockerfile, "a": "1"},
			stdin: packed("zstd"), want: []check{has("/a", "1")}},
		{name: "tar on standard input with -f inside", context: "-", files: map[string]string{"d/Other": dockerfile, "a": "1"},
			args:  []string{"-f", "d/Other"},
			stdin: packed("cat"), want: []check{has("/a", "1")}},
		{name: "http archive", context: "{http}/archive.tar.gz", want: []check{has("/in.txt", "from an archive\n")}},
		{name: "http Dockerfile whatever -f calls it", context: "{http}/Dockerfile", args: []string{"-f", "other"}, want: []check{env("from=http")}},
		{name: "http Dockerfile", context: "{http}/Dockerfile",
			want: []check{config([]string{"from=http"},
				func(c *dockerspec.DockerOCIImage) any { return c.Config.Env[len(c.Config.Env)-1:] })}},
		{name: "git repository", context: "{git}",
			want: []check{has("/file.txt", "two\n"), has("/sub/sub.txt", "sub\n"), lacks("/.git")}},
		{name: "git repository at a reference", context: "{git}#v1", want: []check{has("/file.txt", "one\n"), lacks("/sub")}},
		{name: "git repository with a subdirectory", context: "{git}#main:dir",
			want: []check{has("/d.txt", "deep\n"), lacks("/file.txt")}},
		{name: "git repository with its .git", context: "{git}",
			args: []string{"--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"},
			want: []check{has("/file.txt", "two\n"), dir("/.git")}},
		{name: "directory without a Dockerfile", fails: []string{"Dockerfile"}, files: map[string]string{"a": "1"}},
		{name: "directory that is not there", file: dockerfile, context: "{dir}/nope", fails: []string{"nope"}},
		{name: "named directory", file: "FROM scratch\nCOPY --from=other a /\n",
			setup: script("mkdir $dir/o; echo named > $dir/o/a"),
			args:  []string{"--build-context", "other={dir}/o"}, want: []check{has("/a", "named\n")}},
		{name: "named directory with its .dockerignore", file: "FROM scratch\nCOPY --from=other . /\n",
			setup: script("mkdir $dir/o; echo b > $dir/o/.dockerignore; echo a > $dir/o/a; echo b > $dir/o/b"),
			args:  []string{"--build-context", "other={dir}/o"}, want: []check{has("/a", "a\n"), lacks("/b")}},
		{name: "named image", file: "FROM alias\nCOPY --from=alias /etc/group /g\n",
			args: []string{"--build-context", "alias=docker-image://{base}"},
			want: []check{contains("/g", "root:x:0:"), dir("/tmp")}},
		{name: "named OCI layout", file: "FROM alias\n",
			setup: script("skopeo copy -q --src-tls-verify=false docker://{base} oci:$dir/layout:v1"),
			args:  []string{"--build-context", "alias=oci-layout://{dir}/layout:v1"}, want: []check{dir("/tmp"), layers(0)}},
		{name: "named git repository", file: "FROM scratch\nCOPY --from=src file.txt /\n",
			args: []string{"--build-context", "src={git}#v1"}, want: []check{has("/file.txt", "one\n")}},
		{name: "named http archive", file: "FROM scratch\nCOPY --from=src in.txt /\n",
			args: []string{"--build-context", "src={http}/archive.tar.gz"}, want: []check{has("/in.txt", "from an archive\n")}},
		{name: "named context in place of a base image", file: "FROM {registry}/none/such\n",
			args: []string{"--build-context", "{registry}/none/such=docker-image://{base}"}, want: []check{dir("/tmp")}},
		{name: "named context in place of a stage",
			file:  "FROM scratch AS build\nRUN nope\nFROM scratch\nCOPY --from=build /a /\n",
			setup: script("mkdir $dir/o; echo override > $dir/o/a"),
			args:  []string{"--build-context", "build={dir}/o"}, want: []check{has("/a", "override\n")}},
		{name: "named context for a mount", file: "FROM {base}\nRUN --mount=from=src,target=/m cp /m/a /\n",
			setup: script("mkdir $dir/o; echo m > $dir/o/a"),
			args:  []string{"--build-context", "src={dir}/o"}, want: []check{has("/a", "m\n")}},
		{name: "named context for one platform", file: "FROM --platform=linux/arm64 a\nLABEL x=y\n",
			args: []string{"--platform", "linux/arm64", "--build-context", "a::linux/arm64=docker-image://{base}"},
			want: []check{dir("/tmp"), label("x", "y")}},
		{name: "named context in ONBUILD", file: "FROM scratch AS b\nONBUILD COPY --from=o a /\nFROM b\n",
			setup: script("mkdir $dir/o; echo named > $dir/o/a"), args: []string{"--build-context", "o={dir}/o"},
			want: []check{has("/a", "named\n")}},
		{name: "named context that is not there", file: "FROM scratch\nCOPY --from=o a /\n",
			args: []string{"--build-context", "o={dir}/nope"}, fails: []string{"nope"}, usage: true},
	}
}

func platformRows() []row {
	both := []string{"--platform", "linux/amd64,linux/arm64"}
	return []row{
		{name: "one platform", file: "FROM scratch\nARG TARGETPLATFORM\nLABEL p=$TARGETPLATFORM\n",
			args: []string{"--platform", "linux/arm/v7"},
			want: []check{forPlatform("linux/arm/v7"), label("p", "linux/arm/v7")}},
		{name: "several platforms make an index", file: "FROM scratch\nARG TARGETARCH\nLABEL a=$TARGETARCH\n", args: both,
			after: func(t *testing.T, p *place, ims []*image) {
				if len(ims) != 2 {
					t.Fatalf("%d images", len(ims))
				}
				for i, a := range []string{"amd64", "arm64"} {
					forPlatform("linux/"+a)(t, ims[i])
					label("a", a)(t, ims[i])
				}
			}},
		{name: "cross-compilation", args: both,
			file: "FROM --platform=$BUILDPLATFORM {base} AS build\nARG TARGETOS\nARG TARGETARCH\n" +
				"RUN echo \"$TARGETOS $TARGETARCH\" > /out\nFROM scratch\nCOPY --from=build /out /out\n",
			after: func(t *testing.T, p *place, ims []*image) {
				has("/out", "linux amd64\n")(t, ims[0])
				has("/out", "linux arm64\n")(t, ims[1])
			}},
		{name: "platform of the index of a base", file: "FROM {registry}/multi\n", setup: multi, args: both,
			after: func(t *testing.T, p *place, ims []*image) {
				label("for", "amd64")(t, ims[0])
				label("for", "arm64")(t, ims[1])
			}},
		{name: "platform that a base does not have", file: "FROM {registry}/multi\n", setup: multi,
			args: []string{"--platform", "linux/s390x"}, fails: []string{"linux/s390x"}},
	}
}
