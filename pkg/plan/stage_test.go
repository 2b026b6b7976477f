package plan

import (
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestFrom(t *testing.T) {
	t.Run("scratch", func(t *testing.T) {
		s := mustPlan(t, "FROM scratch\n").Target()
		if !s.Base.IsScratch() || s.Name != "0" || len(s.Image.History) != 0 {
			t.Errorf("got %+v", s)
		}
		equal(t, "env", s.Image.Config.Env, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
		equal(t, "dir", s.Image.Config.WorkingDir, "/")
		equal(t, "platform", s.Image.Platform, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	})
	t.Run("image", func(t *testing.T) {
		s := mustPlan(t, "FROM base AS Final\n").Target()
		if s.Base.Image == nil || s.Base.Image.Ref != "docker.io/library/base:latest" || s.Name != "final" {
			t.Errorf("got %+v", s)
		}
		if len(s.Image.RootFS.DiffIDs) != 0 || s.Image.RootFS.Type != "layers" {
			t.Errorf("root filesystem %+v", s.Image.RootFS)
		}
	})
	t.Run("image without PATH", func(t *testing.T) {
		s := mustPlan(t, "FROM alpine\nRUN x").Target()
		equal(t, "env", s.Steps[0].Run.Env, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"})
		equal(t, "dir", s.Steps[0].Run.Dir, "/")
	})
	t.Run("argument", func(t *testing.T) {
		s := mustPlan(t, "ARG N=al\nFROM ${N}pine\n").Target()
		equal(t, "base", s.Base.Image.Ref, "docker.io/library/alpine:latest")
	})
	t.Run("stage", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine AS a\nENV x=1\nWORKDIR /w\nFROM a\nRUN y\n")
		equal(t, "stages", stageNames(p), []string{"a", "1"})
		s := p.Target()
		if s.Base.Stage != p.Stages[0] {
			t.Errorf("base %+v", s.Base)
		}
		equal(t, "dir", s.Steps[0].Run.Dir, "/w")
		equal(t, "own history", s.HistoryStep, []int{0})
	})
	t.Run("image without layers is scratch", func(t *testing.T) {
		im := testImages()
		cfg := im["docker.io/library/alpine:latest"]
		cfg.RootFS.DiffIDs, cfg.History, cfg.Config.Env = nil, nil, []string{"E=1"}
		im["docker.io/library/empty:latest"] = cfg
		s := mustPlan(t, "FROM empty\n", func(o *Options) { o.Images = im }).Target()
		if !s.Base.IsScratch() || s.Image.Config.Env[0] != "E=1" {
			t.Errorf("got %+v", s)
		}
	})
}

func TestFromErrors(t *testing.T) {
	tests := []struct {
		name, text, want string
		line             int
	}{
		{"no stage", "ARG A=1\n", "dockerfile contains no stages to build", 0},
		{"unknown image", "FROM alpin\n", "did you mean alpine?", 1},
		{"unknown stage", "FROM scratch AS build\nFROM buidl\n", "did you mean build?", 2},
		{"blank", "ARG X\nFROM $X\n", "base name ($X) should not be blank", 2},
		{"upper case", "FROM Alpine\n", "repository name", 1},
		{"empty platform", "FROM --platform=$BUILDPLATFROM alpine\n", "did you mean BUILDPLATFORM?", 1},
		{"bad platform", "FROM --platform=a/b/c/d alpine\n", "parsing platform a/b/c/d", 1},
		{"bad expansion", "FROM ${x:?sayit}\n", "sayit", 1},
		{"later stage", "FROM b AS a\nFROM scratch AS b\nFROM a\n", "docker.io/library/b:latest: not found", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := newPlan(tt.text)
			wantError(t, err, tt.want, tt.line)
		})
	}
}

func TestTarget(t *testing.T) {
	const text = "FROM scratch AS first\nUSER 1\nFROM scratch AS Second\nUSER 2\nFROM scratch\nUSER 3\n"
	for name, want := range map[string]string{"": "3", "first": "1", "FIRST": "1", "second": "2", "0": "1", "2": "3"} {
		if got := mustPlan(t, text, target(name)).Target().Image.Config.User; got != want {
			t.Errorf("target %q is that of user %s", name, got)
		}
	}
	_, err := newPlan(text, target("frist"))
	wantError(t, err, `target stage "frist" could not be found (hint: did you mean first?)`, 0)
	_, err = newPlan(text, target("3"))
	wantError(t, err, "could not be found", 0)
}

func TestOnlyNeededStages(t *testing.T) {
	const text = `FROM missing AS unused
RUN no
FROM scratch AS viacopy
FROM scratch AS viamount
FROM viacopy AS base
FROM base AS final
COPY --from=viacopy a b
RUN --mount=from=viamount,target=/m x
FROM final AS after
`
	equal(t, "stages", stageNames(mustPlan(t, text, target("final"))), []string{"viacopy", "viamount", "base", "final"})
	equal(t, "stages", stageNames(mustPlan(t, text, target("viamount"))), []string{"viamount"})
}

func TestStageReferences(t *testing.T) {
	p := mustPlan(t, `FROM scratch AS one
FROM scratch AS two
COPY --from=ONE a b
COPY --from=0 a b
COPY --from=alpine a b
COPY --from=scratch a b
COPY a b
`)
	s := p.Target()
	one := p.Stages[0]
	for i, want := range []Source{{Stage: one}, {Stage: one}} {
		equal(t, "from", s.Steps[i].Copy.From, want)
	}
	equal(t, "image", s.Steps[2].Copy.From.Image.Ref, "docker.io/library/alpine:latest")
	if !s.Steps[3].Copy.From.IsScratch() {
		t.Error("scratch is not empty")
	}
	equal(t, "context", s.Steps[4].Copy.From, Source{Context: &Context{}})

	for _, tt := range []struct {
		text, want string
		line       int
	}{
		{"FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nFROM a\n",
			`cannot copy from stage "b", it needs to be defined before current stage "a"`, 2},
		{"FROM scratch AS a\nRUN --mount=from=b,target=/m y\nFROM scratch AS b\nFROM a\n", `cannot mount from stage "b" to "/m"`, 2},
		{"FROM scratch AS a\nCOPY --from=a x y\n", "circular dependency detected on stage: a", 2},
		{"FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from=a x y\n", "circular dependency detected on stage: a", 4},
		{"FROM scratch AS a\nRUN --mount=from=b x y\nFROM scratch AS b\nRUN --mount=from=c x y\nFROM scratch AS c\nCOPY --from=0 x y\n",
			"circular dependency", 6},
		{"FROM scratch\nCOPY --from=7 x y\n", "invalid stage index 7", 2},
		{"ARG x\nFROM scratch\nCOPY --from=$x a b\n", "variable expansion is not supported for --from", 3},
	} {
		_, err := newPlan(tt.text)
		wantError(t, err, tt.want, tt.line)
	}
}

func TestPlatforms(t *testing.T) {
	arm := platform("linux/arm64")
	t.Run("FROM platform", func(t *testing.T) {
		p := mustPlan(t, "FROM --platform=$BUILDPLATFORM alpine AS a\nFROM alpine\nCOPY --from=a x y\n", arm)
		equal(t, "build stage", p.Stages[0].Platform.Architecture, "amd64")
		equal(t, "target", p.Target().Platform.Architecture, "arm64")
		equal(t, "image", p.Target().Image.Architecture, "arm64")
	})
	t.Run("image says another", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine\n", platform("linux/arm/v7"))
		equal(t, "image", p.Target().Image.Platform, ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"})
		if len(p.Warnings) != 1 || p.Warnings[0].Rule != "InvalidBaseImagePlatform" {
			t.Errorf("warnings %v", p.Warnings)
		}
	})
	t.Run("implicit", func(t *testing.T) {
		im := testImages()
		cfg := im["docker.io/library/alpine:latest"]
		cfg.OS, cfg.Architecture, cfg.OSVersion = "windows", "arm64", "10.0"
		im["docker.io/library/alpine:latest"] = cfg
		p := mustPlan(t, "FROM alpine\n", func(o *Options) { o.Images, o.ImplicitPlatform = im, true })
		equal(t, "image", p.Target().Image.Platform, cfg.Platform)
	})
	t.Run("os version is kept", func(t *testing.T) {
		im := testImages()
		cfg := im["docker.io/library/alpine:latest"]
		cfg.OS, cfg.OSVersion, cfg.OSFeatures = "windows", "10.0.1", []string{"win32k"}
		im["docker.io/library/alpine:latest"] = cfg
		p := mustPlan(t, "FROM alpine\nRUN x\n", func(o *Options) { o.Images = im }, platform("windows/amd64"))
		img := p.Target().Image
		if img.OSVersion != "10.0.1" || !slices.Equal(img.OSFeatures, cfg.OSFeatures) || len(img.Config.Env) != 0 {
			t.Errorf("got %+v", img)
		}
		equal(t, "shell", p.Target().Steps[0].Run.Args, []string{"cmd", "/S", "/C", "x"})
	})
}

func TestNamedContexts(t *testing.T) {
	im := testImages()
	im["docker.io/library/other:1"] = im["docker.io/library/base:latest"]
	im["oci-layout:///dir@sha256:x"] = im["docker.io/library/base:latest"]
	withImages := func(o *Options) { o.Images = im }
	t.Run("directory for --from and mount", func(t *testing.T) {
		p := mustPlan(t, "FROM scratch\nCOPY --from=src a b\nRUN --mount=from=src,target=/m x\n", namedContext("src", "/some/dir"))
		want := Source{Context: &Context{Name: "src", URL: "/some/dir"}}
		equal(t, "copy", p.Target().Steps[0].Copy.From, want)
		equal(t, "mount", p.Target().Steps[1].Run.Mounts[0].From, want)
	})
	t.Run("image for image", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine:3\n", withImages, namedContext("alpine:3", "docker-image://other:1"))
		equal(t, "base", p.Target().Base.Image.Ref, "docker.io/library/other:1")
		equal(t, "config", p.Target().Image.Config.User, "baseuser")
	})
	t.Run("names are those of images", func(t *testing.T) {
		p := mustPlan(t, "FROM docker.io/library/alpine\n", withImages, namedContext("alpine:latest", "docker-image://other:1"))
		equal(t, "base", p.Target().Base.Image.Ref, "docker.io/library/other:1")
	})
	t.Run("layout", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine\n", withImages, namedContext("alpine", "oci-layout:///dir@sha256:x"))
		equal(t, "base", p.Target().Base.Image.Ref, "oci-layout:///dir@sha256:x")
	})
	t.Run("directory as base", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine\nUSER x\n", namedContext("alpine", "dir"))
		equal(t, "base", p.Target().Base.Context.URL, "dir")
		equal(t, "dir", p.Target().Image.Config.WorkingDir, "/")
		equal(t, "architecture", p.Target().Image.Architecture, "amd64")
	})
	t.Run("image for stage", func(t *testing.T) {
		p := mustPlan(t, "FROM missing AS build\nRUN no\nFROM build\nUSER x\nCOPY --from=build a b\n", withImages,
			namedContext("build", "docker-image://other:1"))
		if len(p.Stages[0].Steps) != 0 || p.Stages[0].Base.Image.Ref != "docker.io/library/other:1" {
			t.Errorf("stage %+v", p.Stages[0])
		}
		equal(t, "cmd", p.Target().Image.Config.Cmd, []string{"base-cmd"})
		equal(t, "from", p.Target().Steps[0].Copy.From.Image.Ref, "docker.io/library/other:1")
	})
	t.Run("directory for stage", func(t *testing.T) {
		p := mustPlan(t, "FROM missing AS build\nRUN no\nFROM scratch\nCOPY --from=build a b\n", namedContext("build", "dir"))
		equal(t, "from", p.Target().Steps[0].Copy.From.Context.URL, "dir")
	})
	t.Run("platform", func(t *testing.T) {
		both := []func(*Options){withImages, namedContext("alpine", "docker-image://base"), namedContext("alpine::linux/arm64", "docker-image://other:1")}
		equal(t, "base", mustPlan(t, "FROM alpine\n", both...).Target().Base.Image.Ref, "docker.io/library/base:latest")
		equal(t, "base", mustPlan(t, "FROM alpine\n", append(both, platform("linux/arm64/v8"))...).Target().Base.Image.Ref,
			"docker.io/library/other:1")
	})
	t.Run("scratch", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine\n", namedContext("alpine", "docker-image://scratch"))
		if !p.Target().Base.IsScratch() {
			t.Errorf("base %+v", p.Target().Base)
		}
	})
	t.Run("scratch and context are no names", func(t *testing.T) {
		p := mustPlan(t, "FROM scratch\n", namedContext("scratch", "dir"))
		if !p.Target().Base.IsScratch() {
			t.Errorf("base %+v", p.Target().Base)
		}
	})
	t.Run("main context", func(t *testing.T) {
		p := mustPlan(t, "FROM scratch\nCOPY a b\n", namedContext("", "https://host/repo.git"))
		equal(t, "from", p.Target().Steps[0].Copy.From.Context.URL, "https://host/repo.git")
	})
	_, err := newPlan("FROM scratch\n", namedContext("Not A Name", "dir"))
	wantError(t, err, "invalid context name", 0)
}

func TestOnbuild(t *testing.T) {
	withTriggers := func(triggers ...string) func(*Options) {
		return func(o *Options) {
			im := testImages()
			cfg := im["docker.io/library/alpine:latest"]
			cfg.Config.OnBuild = triggers
			im["docker.io/library/trig:latest"] = cfg
			o.Images = im
		}
	}
	t.Run("of an image", func(t *testing.T) {
		p := mustPlan(t, "FROM trig\nUSER after\nFROM trig AS x\n", withTriggers("USER trigger", "RUN true"), target("0"))
		s := p.Target()
		equal(t, "history", ownHistory(s), []string{"USER trigger", "RUN /bin/sh -c true # buildkit", "USER after"})
		equal(t, "user of the step", s.Steps[0].Run.User, "trigger")
		equal(t, "line", s.Steps[0].Location.First, 1)
		equal(t, "name", s.Steps[0].Name, "[stage-0 2/3] ONBUILD RUN true")
		if s.Image.Config.OnBuild != nil {
			t.Error("triggers are handed on")
		}
	})
	t.Run("of a stage", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine AS a\nONBUILD ENV x=1\nFROM a AS b\nENV x=$x$x\nFROM b\n")
		equal(t, "config of a", p.Stages[0].Image.Config.OnBuild, []string{"ENV x=1"})
		equal(t, "history of b", ownHistory(p.Stages[1]), []string{"ENV x=1", "ENV x=11"})
		equal(t, "history of its child", ownHistory(p.Target()), []string(nil))
	})
	t.Run("is stored as written", func(t *testing.T) {
		p := mustPlan(t, "FROM alpine\nONBUILD   COPY <<EOF /x\nhi\nEOF\nonbuild RUN a\n")
		equal(t, "triggers", p.Target().Image.Config.OnBuild, []string{"COPY <<EOF /x\nhi\nEOF", "RUN a"})
		if len(p.Target().Steps) != 0 || len(ownHistory(p.Target())) != 0 {
			t.Error("it has been run")
		}
	})
	t.Run("heredoc", func(t *testing.T) {
		p := mustPlan(t, "FROM trig\n", withTriggers("COPY <<EOF /x\nhi\nEOF"))
		equal(t, "file", p.Target().Steps[0].Copy.Inline, []InlineFile{{Name: "EOF", Data: []byte("hi\n")}})
	})
	t.Run("new dependencies", func(t *testing.T) {
		p := mustPlan(t, "FROM scratch AS dep\nUSER d\nFROM trig AS final\n", withTriggers("COPY --from=dep a b", "RUN --mount=from=base,target=/m x"))
		equal(t, "stages", stageNames(p), []string{"dep", "final"})
		equal(t, "copy", p.Target().Steps[0].Copy.From.Stage, p.Stages[0])
		equal(t, "mount", p.Target().Steps[1].Run.Mounts[0].From.Image.Ref, "docker.io/library/base:latest")
	})
	_, err := newPlan("FROM scratch\nFROM trig\n", withTriggers("NOPE"))
	wantError(t, err, "unknown instruction: NOPE", 2)
	for _, bad := range []string{"ONBUILD RUN x", "MAINTAINER me", "FROM alpine"} {
		_, err = newPlan("FROM trig\n", withTriggers(bad))
		wantError(t, err, "trigger", 1)
	}
	_, err = newPlan("FROM scratch\nFROM trig AS self\n", withTriggers("COPY --from=self a b"))
	wantError(t, err, "needs to be defined before", 2)
}
