package plan

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// images is an ImageResolver that knows what is in it, by normalised reference.
type images map[string]dockerspec.DockerOCIImage

func (im images) ResolveImage(_ context.Context, ref string, _ ocispec.Platform) (ResolvedImage, error) {
	cfg, ok := im[ref]
	if !ok {
		return ResolvedImage{}, fmt.Errorf("%s: not found", ref)
	}
	return ResolvedImage{Ref: ref, Digest: digest.FromString(ref), Config: cfg}, nil
}

// testImages has "base", with something of everything, and "alpine", with little.
func testImages() images {
	base := dockerspec.DockerOCIImage{}
	base.Platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	base.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("base layer")}}
	base.Config.Env = []string{"PATH=/base/bin", "B=base"}
	base.Config.Cmd = []string{"base-cmd"}
	base.Config.Entrypoint = []string{"base-entry"}
	base.Config.WorkingDir = "/base/dir"
	base.Config.User = "baseuser"
	base.Config.Labels = map[string]string{"base": "label"}
	base.History = []ocispec.History{{CreatedBy: "base history"}, {CreatedBy: "base metadata", EmptyLayer: true}}
	alpine := dockerspec.DockerOCIImage{}
	alpine.Platform = base.Platform
	alpine.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("alpine layer")}}
	alpine.History = []ocispec.History{{CreatedBy: "alpine history"}}
	return images{"docker.io/library/base:latest": base, "docker.io/library/alpine:latest": alpine}
}

func testOptions() Options {
	amd64 := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	return Options{Platform: amd64, BuildPlatform: amd64, Images: testImages(), BuildArgs: map[string]string{}, Contexts: map[string]Context{}}
}

func newPlan(text string, change ...func(*Options)) (*Plan, error) {
	opts := testOptions()
	for _, c := range change {
		c(&opts)
	}
	f, err := dockerfile.Parse("Dockerfile", []byte(text), dockerfile.Options{BuildArgs: opts.BuildArgs})
	if err != nil {
		return nil, err
	}
	return New(context.Background(), f, opts)
}

func mustPlan(t *testing.T, text string, change ...func(*Options)) *Plan {
	t.Helper()
	p, err := newPlan(text, change...)
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return p
}

// wantError checks the words of an error and, unless 0, its line.
func wantError(t *testing.T, err error, words string, line int) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Fatalf("got error %v, want one with %q", err, words)
	}
	var placed *dockerfile.Error
	if line > 0 && (!errors.As(err, &placed) || placed.Location.First != line) {
		t.Errorf("error %q is not at line %d", err, line)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %#v\nwant %#v", what, got, want)
	}
}

func args(kv ...string) func(*Options) {
	return func(o *Options) {
		for i := 0; i < len(kv); i += 2 {
			o.BuildArgs[kv[i]] = kv[i+1]
		}
	}
}

func platform(s string) func(*Options) {
	return func(o *Options) { o.Platform = platforms.MustParse(s) }
}

func target(s string) func(*Options) { return func(o *Options) { o.Target = s } }

func namedContext(name, url string) func(*Options) {
	return func(o *Options) { o.Contexts[name] = Context{Name: name, URL: url} }
}

// ownHistory are the CreatedBy texts after the base's.
func ownHistory(s *Stage) []string {
	var out []string
	for _, h := range s.Image.History[len(s.Image.History)-len(s.HistoryStep):] {
		out = append(out, h.CreatedBy)
	}
	return out
}

func steps(s *Stage) []string {
	var out []string
	for _, st := range s.Steps {
		out = append(out, st.Name)
	}
	return out
}

func stageNames(p *Plan) []string {
	var out []string
	for _, s := range p.Stages {
		out = append(out, s.Name)
	}
	return out
}

// TestHistory: the texts are an interface, other tools read them; layers and metadata map to steps.
func TestHistory(t *testing.T) {
	p := mustPlan(t, `FROM base
ARG FOO=bar
ARG NOVALUE
ENV A=1 B="two words"
LABEL x=y "z"="a b"
RUN echo hi
RUN ["echo", "$A"]
COPY src1 src2 dst/
COPY --chown=1:2 --chmod=755 --parents a b
COPY --link a b
ADD a.tar /
WORKDIR x
WORKDIR /
USER me
VOLUME /v1 /v2
EXPOSE 80 90/udp
STOPSIGNAL SIGINT
CMD ["a", "b c"]
ENTRYPOINT entry
HEALTHCHECK --interval=5s CMD ["true"]
SHELL ["/bin/ash", "-c"]
MAINTAINER me
ONBUILD RUN true
COPY <<F1 <<F2 /dir/
F1
F2
`)
	s := p.Target()
	equal(t, "history", ownHistory(s), []string{
		"ARG FOO=bar",
		"ARG NOVALUE",
		"ENV A=1 B=two words",
		"LABEL x=y z=a b",
		"RUN |2 FOO=bar NOVALUE= /bin/sh -c echo hi # buildkit",
		"RUN |2 FOO=bar NOVALUE= echo $A # buildkit",
		"COPY src1 src2 dst/ # buildkit",
		"COPY --parents --chown=1:2 --chmod=755 a b # buildkit",
		"COPY a b # buildkit",
		"ADD a.tar / # buildkit",
		"WORKDIR /base/dir/x",
		"WORKDIR /",
		"USER me",
		"VOLUME [/v1 /v2]",
		"EXPOSE [80/tcp 90/udp]",
		"STOPSIGNAL SIGINT",
		`CMD ["a" "b c"]`,
		`ENTRYPOINT ["/bin/sh" "-c" "entry"]`,
		"HEALTHCHECK {Test:[CMD true] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
		"SHELL [/bin/ash -c]",
		"MAINTAINER me",
		"COPY <<F1 <<F2 /dir/ # buildkit",
	})
	equal(t, "steps", s.HistoryStep, []int{-1, -1, -1, -1, 0, 1, 2, 3, 4, 5, 6, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 7})
	if len(s.Steps) != 8 {
		t.Errorf("%d steps", len(s.Steps))
	}
	equal(t, "base history", s.Image.History[:2], testImages()["docker.io/library/base:latest"].History)
	for i, h := range s.Image.History[2:] {
		if h.Comment != "buildkit.dockerfile.v0" || h.Created != nil || h.EmptyLayer != (s.HistoryStep[i] < 0) {
			t.Errorf("entry %d: %+v", i, h)
		}
	}
}

// TestDoesNotChangeItsInput: base images and files are shared by the plans of all platforms.
func TestDoesNotChangeItsInput(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte(`FROM base
ENV B=changed
LABEL base=changed
CMD x
EXPOSE 80
COPY $B /
`), dockerfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opts := testOptions()
	opts.Labels = map[string]string{"from": "options"}
	var first *Plan
	for range 2 {
		p, err := New(context.Background(), f, opts)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = p
			continue
		}
		equal(t, "image", p.Target().Image, first.Target().Image)
	}
	equal(t, "base", opts.Images, ImageResolver(testImages()))
	equal(t, "build args", opts.BuildArgs, map[string]string{})
}
