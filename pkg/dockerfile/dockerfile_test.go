package dockerfile

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/hint"
)

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("Dockerfile", []byte(text), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSyntax(t *testing.T) {
	const rest = "\nFROM scratch\n"
	tests := []struct {
		name, text, arg string
		line            int // of the error, 0 for none, -1 for one without a line
	}{
		{"none", "FROM scratch", "", 0},
		{"short", "# syntax=docker/dockerfile:1" + rest, "", 0},
		{"full", "# syntax = docker.io/docker/dockerfile:1.7-labs" + rest, "", 0},
		{"upstream", "#syntax=docker/dockerfile-upstream:master" + rest, "", 0},
		{"digest", "# syntax=docker/dockerfile@sha256:" + strings.Repeat("a", 64) + rest, "", 0},
		{"behind shebang", "#!/usr/bin/env x\n# syntax=example.com/x" + rest, "", 2},
		{"behind escape", "# escape=`\n# syntax=example.com/x" + rest, "", 2},
		{"slashes", "// syntax=example.com/x" + rest, "", 1},
		{"json", `{"syntax": "example.com/x"}`, "", 1},
		{"mirror", "# syntax=example.com/docker/dockerfile:1" + rest, "", 0},
		{"mirror with a prefix", "# syntax=example.com:5000/hub/docker/dockerfile-upstream:1.9-labs" + rest, "", 0},
		{"name that ends alike", "# syntax=example.com/mydocker/dockerfile:1" + rest, "", 1},
		{"other image", "# syntax=docker/other" + rest, "", 1},
		{"with options", "# syntax=docker/dockerfile:1 --flag" + rest, "", 0},
		{"after an instruction", "FROM scratch\n# syntax=example.com/x\n", "", 0},
		{"argument allowed", "# syntax=example.com/x" + rest, "docker/dockerfile:1", 0},
		{"argument refused", "# syntax=docker/dockerfile:1" + rest, "example.com/x", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opts := Options{BuildArgs: map[string]string{}}
			if tt.arg != "" {
				opts.BuildArgs["BUILDKIT_SYNTAX"] = tt.arg
			}
			_, err := Parse("Dockerfile", []byte(tt.text), opts)
			var placed *Error
			switch {
			case tt.line == 0 && err != nil:
				t.Fatal(err)
			case tt.line > 0 && (!errors.As(err, &placed) || placed.Location.First != tt.line):
				t.Fatalf("error %v is not at line %d", err, tt.line)
			case tt.line != 0 && (err == nil || !strings.Contains(err.Error(), "docker/dockerfile, of any version")):
				t.Fatalf("error %v lacks the hint", err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name, text, want, hint string
		first, last            int
	}{
		{"empty", "", "the Dockerfile cannot be empty", "", 0, 0},
		{"comments only", "# nothing\n\n", "file with no instructions", "", 2, 2},
		{"instruction", "FROM scratch\n\nCOPPY a b\n", "dockerfile parse error on line 3: unknown instruction: COPPY (hint: did you mean COPY?)",
			"did you mean COPY?", 3, 3},
		{"flag", "FROM scratch\nCOPY --frm=a b \\\n c\n", "unknown flag: --frm (hint: did you mean from?)", "did you mean from?", 2, 3},
		{"mount", "FROM scratch\nRUN --mount=from=$x true\n", "'from' doesn't support variable expansion", "", 2, 2},
		{"before FROM", "RUN true\n", "no build stage in current context", "", 1, 1},
		{"heredoc", "FROM scratch\nRUN <<EOF\ntrue\n", "unterminated heredoc", "", 2, 3},
		{"escape", "# escape=x\nFROM scratch\n", "invalid escape token", "", 0, 0},
		{"stage name", "FROM scratch AS 1x\n", "invalid name for build stage", "", 1, 1},
		{"from arguments", "FROM a b\n", "FROM requires either one or three arguments", "", 1, 1},
		{"check options", "# check=sip=all\nFROM scratch\n", "invalid check option", "", 1, 1},
		{"NUL", "FROM scratch\nENV a=\x00\n", "has a NUL byte", "", 2, 2},
		{"directive twice", "# escape=`\n# escape=`\nFROM scratch\n", "only one escape parser directive can be used", "", 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("Dockerfile", []byte(tt.text), Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %q, want one line with %q", err, tt.want)
			}
			if strings.Count(err.Error(), "did you mean") > 1 {
				t.Errorf("hint is said twice: %s", err)
			}
			var placed *Error
			if !errors.As(err, &placed) {
				if tt.first != 0 {
					t.Fatalf("%T has no place", err)
				}
				return
			}
			if placed.Location.First != tt.first || placed.Location.Last != tt.last || placed.Hint != tt.hint {
				t.Errorf("got %+v, hint %q", placed.Location, placed.Hint)
			}
		})
	}
}

func TestExcerpt(t *testing.T) {
	text := "FROM scratch\nENV a=1\nCOPPY a b\nENV c=1\nENV d=1\nENV e=1\n"
	_, err := Parse("sub/Dockerfile", []byte(text), Options{})
	var placed *Error
	if !errors.As(err, &placed) {
		t.Fatal(err)
	}
	want := "sub/Dockerfile:3\n--------------------\n   1 |     FROM scratch\n   2 |     ENV a=1\n   3 | >>> COPPY a b\n" +
		"   4 |     ENV c=1\n   5 |     ENV d=1\n--------------------\n"
	if got := placed.Excerpt(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := (&Error{Err: errors.New("x")}).Excerpt(); got != "" {
		t.Errorf("an error without a place has excerpt %q", got)
	}
}

func TestErrorAtKeepsPlaceAndHint(t *testing.T) {
	f := parse(t, "FROM scratch\nUSER a\nUSER b\n")
	inner := f.ErrorAt(Location{First: 2, Last: 2}, hint.With(errors.New("wrong"), "do right"))
	outer := f.ErrorAt(Location{First: 3, Last: 3}, inner)
	if got := outer.Error(); got != "Dockerfile:2: wrong (hint: do right)" {
		t.Errorf("got %q", got)
	}
	if f.ErrorAt(Location{}, nil) != nil {
		t.Error("no error became one")
	}
}

func TestParseChecks(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"StageNameCasing", "FROM scratch AS Base", "1 StageNameCasing"},
		{"FromAsCasing", "FROM scratch as base", "1 FromAsCasing"},
		{"NoEmptyContinuation", "FROM scratch\nENV a=1 \\\n\n b=2\n", "4 NoEmptyContinuation"},
		{"ConsistentInstructionCasing", "FROM scratch\nenv a=1\nENV b=1\n", "2 ConsistentInstructionCasing"},
		{"casing of a tie is upper", "FROM scratch\nenv a=1\n", "2 ConsistentInstructionCasing"},
		{"DuplicateStageName", "FROM scratch AS a\nFROM scratch AS a\n", "2 DuplicateStageName"},
		{"ReservedStageName", "FROM scratch AS context\n", "1 ReservedStageName"},
		{"MaintainerDeprecated", "FROM scratch\nMAINTAINER me\n", "2 MaintainerDeprecated"},
		{"InvalidDefinitionDescription", "# check=experimental=all\n\n# nonsense\nFROM scratch AS a\n", "4 InvalidDefinitionDescription"},
		{"experimental is off", "\n# nonsense\nFROM scratch AS a\n", ""},
		{"skip", "# check=skip=FromAsCasing\nFROM scratch as a\n", ""},
		{"skip all", "# check=skip=all\nFROM scratch as A\n", ""},
		{"skip in a comment", "FROM scratch\n# check=skip=MaintainerDeprecated\nMAINTAINER me\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, w := range parse(t, tt.text).Checks().Warnings() {
				got = append(got, string(rune('0'+w.Location.First))+" "+w.Rule)
				if w.Detail == "" || w.Description == "" || w.Location.File != "Dockerfile" {
					t.Errorf("incomplete: %+v", w)
				}
			}
			if strings.Join(got, ",") != tt.want {
				t.Errorf("got %v, want %q", got, tt.want)
			}
		})
	}
}

func TestCheckArgument(t *testing.T) {
	text := []byte("# check=skip=all\nFROM scratch as a\n")
	f, err := Parse("Dockerfile", text, Options{BuildArgs: map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "error=true"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Checks().Err(); err == nil || err.Error() != "lint violation found for rules: FromAsCasing" {
		t.Errorf("got %v", err)
	}
	if _, err := Parse("Dockerfile", text, Options{BuildArgs: map[string]string{"BUILDKIT_DOCKERFILE_CHECK": "nonsense"}}); err == nil {
		t.Error("nonsense was accepted")
	}
}

// TestStagesAreFresh: expanding the instructions of one plan must not show in another's.
func TestStagesAreFresh(t *testing.T) {
	f := parse(t, "ARG G=1\nFROM scratch\nENV a=$b\nEXPOSE 2 1\nRUN --mount=target=/$x true\n")
	for range 2 {
		stages, meta, err := f.Stages()
		if err != nil || len(meta) != 1 {
			t.Fatal(meta, err)
		}
		env := stages[0].Commands[0].(*EnvCommand)
		if env.Env[0].Value != "$b" {
			t.Fatalf("value is %q", env.Env[0].Value)
		}
		if err := env.Expand(func(string) (string, error) { return "expanded", nil }); err != nil {
			t.Fatal(err)
		}
		if err := stages[0].Commands[2].(*RunCommand).Expand(func(s string) (string, error) { return strings.ToUpper(s), nil }); err != nil {
			t.Fatal(err)
		}
		*meta[0].Args[0].Value = "changed"
	}
}

func TestTriggers(t *testing.T) {
	at := []Range{{}}
	at[0].Start.Line, at[0].End.Line = 7, 7
	c, err := ParseTrigger("RUN <<EOF\ntrue\nEOF", at)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Location(); !slices.Equal(got, at) {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"", "RUN a\nRUN b", "NOPE", "FROM scratch", "COPY a"} {
		if _, err := ParseTrigger(bad, at); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	// A comment of a trigger must not reach BuildKit's linter, which has none to merge it into.
	if _, err := ParseTrigger("# x\n# check=skip=all\nRUN true", at); err != nil {
		t.Error(err)
	}
}

func TestEscape(t *testing.T) {
	if f := parse(t, "# escape=`\nFROM scratch\n"); f.Escape != '`' {
		t.Errorf("got %q", f.Escape)
	}
	if f := parse(t, "\xef\xbb\xbfFROM scratch\r\nENV a=1\r\n"); f.Escape != '\\' {
		t.Errorf("got %q", f.Escape)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"FROM scratch", "# syntax=a\n# check=b\n", "#\n# escape=`\nFROM a", "FROM a AS b\nONBUILD RUN <<E\nx\nE\n", "{\"syntax\":1}",
		"#!x\n# check=skip=all;error=true\nfrom a\nrun --mount=type=cache x\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("Dockerfile", []byte(text), Options{})
		if err != nil {
			var placed *Error
			if errors.As(err, &placed) {
				placed.Excerpt()
			}
			return
		}
		if _, _, err := file.Stages(); err != nil {
			t.Fatalf("read once but not twice: %v", err)
		}
	})
}

// TestFlagHints asks the parser whether it knows each flag that hints can name, and for hints that are always the same.
func TestFlagHints(t *testing.T) {
	t.Parallel()
	operands := map[string]string{"FROM": "scratch", "RUN": "true", "COPY": "a b", "ADD": "a b", "HEALTHCHECK": "CMD true"}
	for instruction, rest := range operands {
		if len(flagsOf(instruction)) == 0 {
			t.Errorf("%s has no flags", instruction)
		}
		for _, flag := range flagsOf(instruction) {
			_, err := Parse("Dockerfile", []byte("FROM scratch\n"+instruction+" --"+flag+"=1 "+rest+"\n"), Options{})
			if err != nil && strings.Contains(err.Error(), "unknown flag") {
				t.Errorf("%s --%s: %v", instruction, flag, err)
			}
		}
	}
	for text, want := range map[string]string{
		"COPY --chwon=1 a b":                 "did you mean chown?",
		"copy --excldue=x a b":               "did you mean exclude?",
		"HEALTHCHECK --start-perod=1s CMD x": "did you mean start-period?",
	} {
		for range 20 { // the parser goes through a map
			_, err := Parse("Dockerfile", []byte("FROM scratch\n"+text+"\n"), Options{})
			var placed *Error
			if !errors.As(err, &placed) || placed.Hint != want || strings.Contains(placed.Err.Error(), "did you mean") {
				t.Fatalf("%s: %v, want the hint %q", text, err, want)
			}
			if _, err := ParseTrigger(text, nil); err == nil || !strings.HasSuffix(err.Error(), hint.Text("", want)) {
				t.Fatalf("the trigger %s: %v, want the hint %q", text, err, want)
			}
		}
	}
}
