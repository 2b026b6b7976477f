package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/dockerfile"
)

// TestChecks has every rule that planning applies; pkg/dockerfile has those of parsing.
func TestChecks(t *testing.T) {
	ignore := func(patterns ...string) func(*Options) { return func(o *Options) { o.IgnorePatterns = patterns } }
	tests := []struct {
		name, text string
		change     func(*Options)
		want       string // "line Rule: detail", "" for none
	}{
		{"JSONArgsRecommended", "FROM scratch\nCMD x", nil, "2 JSONArgsRecommended: JSON arguments recommended for CMD"},
		{"JSON after SHELL", "FROM scratch\nSHELL [\"s\"]\nCMD x", nil, ""},
		{"UndefinedArgInFrom", "ARG VERSION=3\nFROM alpine$VERSIN", nil,
			"2 UndefinedArgInFrom: FROM argument 'VERSIN' is not declared (did you mean VERSION?)"},
		{"declared without a value", "ARG V\nFROM alpine$V", nil, ""},
		{"UndefinedArgInFrom platform", "FROM --platform=linux/amd64$x alpine", nil, "1 UndefinedArgInFrom: FROM argument 'x' is not declared"},
		{"WorkdirRelativePath", "FROM base\nWORKDIR x\nWORKDIR y", nil, "2 WorkdirRelativePath: Relative workdir \"x\""},
		{"relative below own", "FROM base AS a\nWORKDIR /x\nFROM a\nWORKDIR y", nil, ""},
		{"UndefinedVar", "FROM scratch\nENV color=1\nUSER $colour", nil,
			"3 UndefinedVar: Usage of undefined variable '$colour' (did you mean $color?)"},
		{"variable of the base", "FROM base\nUSER $B", nil, ""},
		{"declared ARG", "FROM scratch\nARG u\nUSER x$u", nil, ""},
		{"default of ARG", "FROM scratch\nARG u=$v", nil, "2 UndefinedVar: Usage of undefined variable '$v'"},
		{"heredoc", "FROM scratch\nCOPY <<E /\n$v\nE", nil, "2 UndefinedVar: Usage of undefined variable '$v'"},
		{"no variables in RUN", "FROM scratch\nRUN $v", nil, ""},
		{"MultipleInstructionsDisallowed", "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]", nil, "2 MultipleInstructionsDisallowed: Multiple CMD"},
		{"in several stages", "FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]", nil, ""},
		{"several healthchecks", "FROM scratch\nHEALTHCHECK NONE\nHEALTHCHECK NONE", nil, "2 MultipleInstructionsDisallowed: Multiple HEALTHCHECK"},
		{"several entry points", "FROM scratch\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]", nil, "2 MultipleInstructionsDisallowed: Multiple ENTRYPOINT"},
		{"LegacyKeyValueFormat", "FROM scratch\nENV a b", nil, "2 LegacyKeyValueFormat: \"ENV key=value\""},
		{"LegacyKeyValueFormat LABEL", "FROM scratch\nLABEL a b", nil, "2 LegacyKeyValueFormat: \"LABEL key=value\""},
		{"RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM scratch", nil, "1 RedundantTargetPlatform: Setting platform to predefined $TARGET"},
		{"SecretsUsedInArgOrEnv", "FROM scratch\nENV my_PASSWORD=1", nil, "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV"},
		{"SecretsUsedInArgOrEnv ARG", "FROM scratch\nARG apikey", nil, `2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG "apikey")`},
		{"no secret", "FROM scratch\nARG PUBLIC_KEY TOKEN_FILE KEY_VERSION monkey", nil, ""},
		{"InvalidDefaultArgInFrom", "ARG V=:\nFROM alpine$V", args("V", ""), "2 InvalidDefaultArgInFrom: Default value for ARG alpine$V"},
		{"FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 scratch AS x", nil, "1 FromPlatformFlagConstDisallowed: FROM --platform flag"},
		{"platform in the name", "FROM --platform=linux/amd64 scratch AS build-amd64", nil, ""},
		{"CopyIgnoredFile", "FROM scratch\nCOPY a/secret /", ignore("a"), `2 CopyIgnoredFile: Attempting to Copy file "a/secret"`},
		{"CopyIgnoredFile ADD", "FROM scratch\nADD ./x.o /", ignore("*.o"), `2 CopyIgnoredFile: Attempting to Add file "x.o"`},
		{"exceptions cannot be told", "FROM scratch\nCOPY a /", ignore("a", "!a/b"), ""},
		{"the context itself", "FROM scratch\nCOPY . /", ignore("*.o"), ""},
		{"the whole context", "FROM scratch\nCOPY . /", ignore("**"), `2 CopyIgnoredFile: Attempting to Copy file "."`},
		{"not the context", "FROM scratch AS a\nFROM scratch\nCOPY --from=a x /", ignore("x"), ""},
		{"ExposeProtoCasing", "FROM scratch\nEXPOSE 80/TCP", nil, "2 ExposeProtoCasing: Defined protocol '80/TCP'"},
		{"ExposeInvalidFormat", "FROM scratch\nEXPOSE 1:80", nil, "2 ExposeInvalidFormat: EXPOSE instruction should not define"},
		{"InvalidBaseImagePlatform", "FROM alpine", platform("linux/arm64"),
			`1 InvalidBaseImagePlatform: Base image alpine was pulled with platform "linux/amd64", expected "linux/arm64"`},
		{"skipped by a comment", "FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV a b", nil, ""},
		{"skipped above FROM", "# x\n\n# check=skip=UndefinedArgInFrom,InvalidDefaultArgInFrom\nFROM alpine$x", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change == nil {
				tt.change = func(*Options) {}
			}
			var got []string
			for _, w := range mustPlan(t, tt.text, tt.change).Warnings {
				got = append(got, fmt.Sprintf("%d %s: %s", w.Location.First, w.Rule, w.Detail))
			}
			if len(got) == 0 && tt.want == "" {
				return
			}
			if len(got) != 1 || tt.want == "" || !strings.HasPrefix(got[0], tt.want) {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestChecksAsErrors(t *testing.T) {
	_, err := newPlan("# check=error=true\nFROM scratch as a\nENV a b\nENV c d\n")
	var violations *dockerfile.CheckError
	if !errors.As(err, &violations) || len(violations.Warnings) != 3 {
		t.Fatalf("got %v", err)
	}
	equal(t, "text", err.Error(), "lint violation found for rules: FromAsCasing, LegacyKeyValueFormat")
	mustPlan(t, "# check=error=true\nFROM scratch AS a\nENV a=b\n")
}

func TestWarningsAreInOrder(t *testing.T) {
	p := mustPlan(t, "FROM scratch AS a\nENV a b\nFROM scratch as b\nCMD x\nFROM b\nCMD y\nCOPY --from=a x y\n")
	last := 0
	for _, w := range p.Warnings {
		if w.Location.First < last {
			t.Errorf("%d after %d", w.Location.First, last)
		}
		last = w.Location.First
	}
	if len(p.Warnings) != 4 {
		t.Errorf("got %v", p.Warnings)
	}
}

func TestCheck(t *testing.T) {
	check := func(text string, change ...func(*Options)) ([]dockerfile.Warning, error) {
		f, err := dockerfile.Parse("Dockerfile", []byte(text), dockerfile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		opts := testOptions()
		for _, c := range change {
			c(&opts)
		}
		return Check(context.Background(), f, opts)
	}
	const text = "FROM scratch AS unused\nENV a b\nFROM scratch AS last\nENV c d\n"
	if w, err := check(text); err != nil || len(w) != 2 {
		t.Errorf("all stages: %v %v", w, err)
	}
	if w, err := check(text, target("last")); err != nil || len(w) != 1 {
		t.Errorf("target: %v %v", w, err)
	}
	if w, err := check("FROM scratch\nENV a b\nEXPOSE x\n"); err == nil || len(w) != 1 {
		t.Errorf("with an error: %v %v", w, err)
	}
	if w, err := check("FROM alpine\n", platform("linux/arm64")); err != nil || len(w) != 0 {
		t.Errorf("other platform: %v %v", w, err)
	}
}

func TestTargets(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte("ARG V=1\n# build compiles it\nFROM --platform=$BUILDPLATFORM img:$V AS build\nFROM build\n"), dockerfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Targets(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(list.Targets)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "targets", string(got), `[{"name":"build","description":"compiles it","base":"img:$V","platform":"$BUILDPLATFORM",`+
		`"location":{"ranges":[{"start":{"line":3},"end":{"line":3}}]}},`+
		`{"default":true,"base":"build","location":{"ranges":[{"start":{"line":4},"end":{"line":4}}]}}]`)
}

func TestDescribe(t *testing.T) {
	f, err := dockerfile.Parse("Dockerfile", []byte(`ARG UNUSED=1
# NAME is the image
ARG NAME=al
ARG FULL=${NAME}pine
FROM $FULL AS build
RUN --mount=type=secret,id=tok,required --mount=type=ssh x
FROM scratch AS other
ARG elsewhere
# final is shipped
FROM scratch AS final
ARG TARGETARCH
ARG own=2 given
RUN --mount=type=secret,id=tok --mount=type=secret,id=more x
COPY --from=build a b
`), dockerfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opts := testOptions()
	opts.BuildArgs["given"] = "yes"
	o, err := Describe(context.Background(), f, opts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range o.Args {
		got = append(got, fmt.Sprintf("%d %s=%s %s", a.Location.Ranges[0].Start.Line, a.Name, a.Value, a.Description))
	}
	equal(t, "args", got, []string{"3 NAME=al is the image", "4 FULL=alpine ", "12 given=yes ", "12 own=2 "})
	got = nil
	for _, n := range append(o.Secrets, o.SSH...) {
		got = append(got, fmt.Sprint(n.Location.Ranges[0].Start.Line, n.Name, n.Required))
	}
	equal(t, "needs", got, []string{"13morefalse", "13tokfalse", "6defaultfalse"})
	equal(t, "name", []string{o.Name, o.Description}, []string{"final", "is shipped"})
}

func TestReport(t *testing.T) {
	text := []byte("FROM scratch as a\nNOPE\n")
	_, err := dockerfile.Parse("Dockerfile", text, dockerfile.Options{})
	got, err := json.Marshal(Report("Dockerfile", text, nil, err))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"warnings":[{"ruleName":"FromAsCasing"`, `"buildError":{"message":"dockerfile parse error on line 2: unknown instruction: NOPE`,
		`"location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}`, `"filename":"Dockerfile"`,
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%s lacks %s", got, want)
		}
	}
}
