package language

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// rule is two rows for one of BuildKit's lint rules: a Dockerfile that violates it, in which the finding is at a line, and one that does
// what the first one meant.
func rule(name string, line int, wrong, right string, files ...string) []row {
	context := map[string]string{}
	for i := 0; i < len(files); i += 2 {
		context[files[i]] = files[i+1]
	}
	return []row{
		{name: name + " wrong", file: wrong, files: context, shows: []string{fmt.Sprintf("%s:%d", name, line)}},
		{name: name + " right", file: right, files: context},
	}
}

// checkTable is all of the rules.
func checkTable() table {
	ignore := []string{".dockerignore", "*.log\n", "a.log", "", "a.txt", ""}
	return table{"checks", slices.Concat(
		rule("ConsistentInstructionCasing", 2, "FROM scratch\nlabel a=b\nLABEL c=d\n", "FROM scratch\nLABEL a=b\nLABEL c=d\n"),
		rule("CopyIgnoredFile", 2, "FROM scratch\nCOPY a.log /\n", "FROM scratch\nCOPY a.txt /\n", ignore...),
		rule("DuplicateStageName", 2, "FROM scratch AS one\nFROM scratch AS one\n", "FROM scratch AS one\nFROM scratch AS two\n"),
		rule("ExposeInvalidFormat", 2, "FROM scratch\nEXPOSE 127.0.0.1:80:8080\n", "FROM scratch\nEXPOSE 8080\n"),
		rule("ExposeProtoCasing", 2, "FROM scratch\nEXPOSE 53/UDP\n", "FROM scratch\nEXPOSE 53/udp\n"),
		rule("FromAsCasing", 1, "FROM scratch as one\n", "FROM scratch AS one\n"),
		rule("FromPlatformFlagConstDisallowed", 1, "FROM --platform=linux/amd64 scratch AS one\n",
			"FROM --platform=$BUILDPLATFORM scratch AS one\n"),
		rule("InvalidBaseImagePlatform", 2, "ARG p=linux/s390x\nFROM --platform=$p {base}\n",
			"ARG p=$BUILDPLATFORM\nFROM --platform=$p {base}\n"),
		[]row{{name: "InvalidDefaultArgInFrom wrong", file: "ARG name\nFROM $name\n",
			args: []string{"--build-arg", "name=scratch"}, shows: []string{"InvalidDefaultArgInFrom:2"}},
			{name: "InvalidDefaultArgInFrom right", file: "ARG name=scratch\nFROM $name\n"}},
		rule("InvalidDefinitionDescription", 4,
			"# check=experimental=InvalidDefinitionDescription\n\n# this says nothing of its name\nFROM scratch AS one\n",
			"# check=experimental=InvalidDefinitionDescription\n\n# one is the first of its kind\nFROM scratch AS one\n"),
		rule("JSONArgsRecommended", 2, "FROM scratch\nCMD run it\n", "FROM scratch\nCMD [\"run\", \"it\"]\n"),
		rule("LegacyKeyValueFormat", 2, "FROM scratch\nENV name some value\n", "FROM scratch\nENV name=\"some value\"\n"),
		rule("MaintainerDeprecated", 2, "FROM scratch\nMAINTAINER ann\n",
			"FROM scratch\nLABEL org.opencontainers.image.authors=ann\n"),
		rule("MultipleInstructionsDisallowed", 2, "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\n", "FROM scratch\nCMD [\"b\"]\n"),
		rule("NoEmptyContinuation", 4, "FROM {base}\nRUN true && \\\n\n    true\n", "FROM {base}\nRUN true && \\\n    true\n"),
		rule("RedundantTargetPlatform", 1, "FROM --platform=$TARGETPLATFORM scratch AS one\n", "FROM scratch AS one\n"),
		rule("ReservedStageName", 1, "FROM scratch AS context\n", "FROM scratch AS one\n"),
		rule("SecretsUsedInArgOrEnv", 2, "FROM scratch\nARG DEPLOY_TOKEN\n",
			"FROM {base}\nRUN --mount=type=secret,id=DEPLOY_TOKEN true\n"),
		rule("StageNameCasing", 1, "FROM scratch AS One\n", "FROM scratch AS one\n"),
		rule("UndefinedArgInFrom", 1, "FROM scratch${suffix}\n", "ARG suffix=\nFROM scratch${suffix}\n"),
		rule("UndefinedVar", 2, "FROM scratch\nLABEL a=$nope\n", "FROM scratch\nARG nope\nLABEL a=$nope\n"),
		rule("WorkdirRelativePath", 2, "FROM scratch\nWORKDIR src\n", "FROM scratch\nWORKDIR /src\n"),
	)}
}

// found is what `cairn build --call check,format=json` prints, as far as it matters here.
type found struct {
	Warnings []struct {
		RuleName string `json:"ruleName"`
		URL      string `json:"url"`
		Detail   string `json:"detail"`
		Location struct {
			Ranges []struct {
				Start struct {
					Line int `json:"line"`
				} `json:"start"`
			} `json:"ranges"`
		} `json:"location"`
	} `json:"warnings"`
	Error *struct {
		Message string `json:"message"`
	} `json:"buildError"`
}

// TestChecks asks about every Dockerfile of the table.
func TestChecks(t *testing.T) {
	w := newWorld(t)
	rules := map[string]bool{}
	for _, r := range checkTable().rows {
		name, _, _ := strings.Cut(r.name, " ")
		rules[name] = true
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			p := w.place(t)
			harness.WriteFiles(t, p.ctx, r.files)
			harness.WriteFiles(t, p.ctx, map[string]string{"Dockerfile": p.fill(r.file)})
			args := append([]string{"build", "--root", p.home.Root, "--progress=quiet", "--call", "check,format=json"}, r.args...)
			res := p.home.Cairn(append(args, p.ctx)...)
			var doc found
			decode(t, []byte(res.Stdout), &doc)
			var got []string
			for _, f := range doc.Warnings {
				got = append(got, fmt.Sprintf("%s:%d", f.RuleName, f.Location.Ranges[0].Start.Line))
				if f.Detail == "" || f.URL == "" && name != "InvalidBaseImagePlatform" {
					t.Errorf("a finding without text or address: %+v", f)
				}
			}
			if doc.Error != nil {
				t.Errorf("the Dockerfile is in error: %s", doc.Error.Message)
			}
			if !slices.Equal(slices.Compact(got), r.shows) {
				t.Errorf("found %q, want %q", got, r.shows)
			}
			if want := min(len(r.shows), 1); res.Code != want {
				t.Errorf("exit code %d, want %d", res.Code, want)
			}
		})
	}
	if len(rules) != 22 {
		t.Errorf("%d rules, want 22", len(rules))
	}
}

// TestCalls looks at what is printed for people and for programs.
func TestCalls(t *testing.T) {
	w := newWorld(t)
	p := w.place(t)
	harness.WriteFiles(t, p.ctx, map[string]string{
		"Dockerfile": "# tools are what the others need\nFROM scratch AS tools\n# version is that of the release\nARG version=3\n" +
			"FROM tools AS app\nARG debug\nRUN --mount=type=secret,id=key,required --mount=type=ssh echo $version\n",
		"fine.Dockerfile":  "FROM scratch\nLABEL a=b\n",
		"wrong.Dockerfile": "FROM scratch\nMAINTAINER ann\nWORKDIR src\n",
		"bad.Dockerfile":   "FROM scratch\nMAINTAINER ann\nNOPE\n",
	})
	for _, tc := range []struct {
		args        []string
		code        int
		stdout, err string
	}{
		{[]string{"--call", "targets"}, 0,
			"TARGET        DESCRIPTION\ntools         are what the others need\napp (default) \n", ""},
		{[]string{"--call", "outline"}, 0,
			"TARGET: app\n\nBUILD ARG   VALUE   DESCRIPTION\nversion     3       is that of the release\n" +
				"debug               \n\n" +
				"SECRET   REQUIRED\nkey      true\n\nSSH       REQUIRED\ndefault   \n\n", ""},
		{[]string{"--call", "outline", "--target", "tools"}, 0, "TARGET:      tools\nDESCRIPTION: are what the others need\n\n" +
			"BUILD ARG   VALUE   DESCRIPTION\nversion     3       is that of the release\n\n", ""},
		{[]string{"--check", "-f", p.ctx + "/fine.Dockerfile"}, 0, "Check complete, no warnings found.\n", ""},
		{[]string{"--check", "-f", p.ctx + "/wrong.Dockerfile"}, 1,
			"Check complete, 2 warnings have been found!\n\nWARNING: MaintainerDeprecated - " +
				"https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/\n" +
				"Maintainer instruction is deprecated in favor of using label\nwrong.Dockerfile:2\n" +
				"--------------------\n   1 |     FROM scratch\n   2 | >>> MAINTAINER ann\n   3 |     WORKDIR src\n" +
				"   4 |     \n--------------------\n\n" +
				"WARNING: WorkdirRelativePath", ""},
		{[]string{"--check", "-f", p.ctx + "/bad.Dockerfile"}, 1, "Check complete, 1 warning has been found!\n",
			"unknown instruction: NOPE"},
		{[]string{"--check", "--call", "outline"}, 2, "", "ask for different things"},
	} {
		t.Run(strings.ReplaceAll(strings.Join(tc.args, " "), p.ctx+"/", ""), func(t *testing.T) {
			res := p.home.Cairn(append(append([]string{"build", "--root", p.home.Root, "--progress=quiet"}, tc.args...), p.ctx)...)
			if res.Code != tc.code || !strings.HasPrefix(res.Stdout, tc.stdout) || !strings.Contains(res.Stderr, tc.err) {
				t.Errorf("exit code %d, stdout %q, stderr %q", res.Code, res.Stdout, res.Stderr)
			}
		})
	}
	res := p.home.Cairn("build", "--root", p.home.Root, "--progress=quiet", "--call", "outline,format=json", p.ctx).OK(t)
	var outline struct {
		Name string
		Args []struct{ Name, Value, Description string }
	}
	if err := json.Unmarshal([]byte(res.Stdout),
		&outline); err != nil || outline.Name != "app" || len(outline.Args) != 2 || outline.Args[0].Description != "is "+
		"that of the release" {
		t.Errorf("%v %+v", err, outline)
	}
}
