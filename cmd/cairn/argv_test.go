package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/urfave/cli/v2"
)

func TestArrange(t *testing.T) {
	t.Parallel()
	cmd := &cli.Command{Name: "build", Flags: []cli.Flag{
		&cli.StringSliceFlag{Name: "tag", Aliases: []string{"t"}},
		&cli.StringFlag{Name: "file", Aliases: []string{"f"}},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}},
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}},
		&cli.BoolFlag{Name: "push"},
	}}
	for _, tc := range []struct {
		name, in, want string
		command        bool // operands are a command line
	}{
		{"flags first", "-t x .", "-t=x -- .", false},
		{"flags last", ". -t x", "-t=x -- .", false},
		{"flags around", "-q . --tag x", "-q --tag=x -- .", false},
		{"equals", "--tag=x . --file=F", "--tag=x --file=F -- .", false},
		{"attached", "-tx -fF .", "-t=x -f=F -- .", false},
		{"attached with equals", "-t=x .", "-t=x -- .", false},
		{"grouped", "-qi .", "-q -i -- .", false},
		{"grouped with value", "-qt x .", "-q -t=x -- .", false},
		{"boolean with value", "--push=false . -q=true", "--push=false -q=true -- .", false},
		{"value like a flag", "-t -q .", "-t=-q -- .", false},
		{"standard input", "-t x -", "-t=x -- -", false},
		{"dockerfile on standard input", "-f - .", "-f=- -- .", false},
		{"double dash", "-t x -- -q", "-t=x -- -q", false},
		{"help anywhere", ". --help", "--help", false},
		{"command line", "-i image -t x", "-i -- image -t x", true},
		{"empty value", "--tag= .", "--tag= -- .", false},
		{"nothing", "", "--", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := arrange(cmd, strings.Fields(tc.in), !tc.command)
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Fields(tc.want); !slices.Equal(got, want) {
				t.Errorf("arrange(%q) = %q, want %q", tc.in, got, want)
			}
		})
	}
}

func TestMistypedCommandLines(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args, text, hint string
	}{
		{"build --buildarg A=1 .", "unknown flag --buildarg", "did you mean --build-arg?"},
		{"build --tga x .", "unknown flag --tga", "did you mean --tag?"},
		{"build --secrets=id=x .", "unknown flag --secrets", "did you mean --secret?"},
		{"build . -x", "unknown flag -x", "--help"},
		{"build --destination x .", "unknown flag --destination", "--tag NAME --push"},
		{"build --tag", "flag needs a value: --tag", "--help"},
		{"build . -t", "flag needs a value: -t", "--help"},
		{"build", "needs one CONTEXT", "usage: cairn build"},
		{"build a b", "got 2: a b", "usage: cairn build"},
		{"build --push=maybe .", "invalid boolean value", "--help"},
		{"biuld .", `unknown command "biuld"`, "did you mean `cairn build`?"},
		{"frobnicate", `unknown command "frobnicate"`, "cairn --help"},
		{"-t x build .", "stands before the command", "cairn COMMAND"},
		{"registry srve", `unknown command "srve" of cairn registry`, "`cairn registry serve`"},
		{"registry serve x", "cairn registry serve needs no arguments", "usage: cairn registry serve [flags]"},
		{"system df -v", "unknown flag -v for cairn system df", "see `cairn system df --help`"},
		{"system foo", `unknown command "foo" of cairn system`, "see `cairn system --help`"},
		{"system chek", `unknown command "chek" of cairn system`, "`cairn system check`"},
		{"help nope", `unknown command "nope"`, "`cairn --help`"},
		{"build --foo .", "unknown flag --foo for cairn build", "see `cairn build --help`"},
		{"build -push .", "unknown flag -push for cairn build", "did you mean --push?"},
		{"build --memory 1g .", "unknown flag --memory", "--ulimit"},
		{"build --builder b .", "unknown flag --builder", "leave it out"},
		{"run -p 80:80 x", "unknown flag -p for cairn run", "the network is this machine's"},
		{"run --privileged x", "unknown flag --privileged", "rights"},
		{"build --annotation index:a=b .", "annotation a: an image for a single platform has no index", ""},
		{"build --platform linux/arm64 --annotation manifest[linux/amd64]:a=b .", "nothing is built for linux/amd64", ""},
		{"build --build-context a=/no/such/dir .", "opening build context a: stat /no/such/dir", ""},
		{"build --build-context a=/etc/passwd .", "opening build context a: open /etc/passwd: not a directory", ""},
		{"run --platform linux/arm64,linux/amd64 img", "want one platform", ""},
		{"pull --platform a/b/c/d img", "--platform", "os/arch"},
		{"run -e =x img", `--env: "=x" has no name`, "NAME[=VALUE]"},
		{"run -v /tmp:/x:zz img", `unknown option "zz"`, "ro and rw"},
		{"run -v /tmp img", "not SOURCE:TARGET", "SOURCE"},
		{"kill x", `unknown command "kill"`, "`cairn stop"},
		{"prune", `unknown command "prune"`, "`cairn system prune`"},
		{"image ls", `unknown command "image"`, "`cairn images`"},
		{"image rm x", `unknown command "image"`, "`cairn rmi`"},
		{"image tag x y", `unknown command "image"`, "`cairn tag`"},
		{"container ls", `unknown command "container"`, "`cairn ps`"},
		{"buildx build .", `unknown command "buildx"`, "`cairn build`"},
		{"rmu x", `unknown command "rmu"`, "did you mean `cairn rm`?"},
		{"-v", "flag -v stands before the command", "`cairn version`"},
		{"--root x -v images", "flag -v stands before the command", "`cairn version`"},
		{"--root", "flag needs a value: --root", "`cairn --help`"},
		{"--root x imags", `unknown command "imags"`, "did you mean `cairn images`?"},
		{"--root x version", "unknown flag --root for cairn version", "`cairn version --help`"},
		{"images x y", "at most one REPOSITORY", "usage: cairn images"},
		{"push", "needs", "usage: cairn push"},
		{"build --load .", "no daemon to load", "type=docker"},
		{"build --provenance=true .", "--provenance", "--provenance=false"},
		{"build --provenance=mode=max .", "--provenance", "--provenance=false"},
		{"build --sbom=1 .", "--sbom", "--sbom=false"},
		{"build --attest type=sbom .", "--attest", ""},
		{"build --cache-from type=registry,reff=x .", "unknown key reff", "did you mean ref?"},
		{"build --network=bridge .", `--network "bridge"`, "default, none and host"},
		{"build --progress=loud .", `--progress "loud"`, "plain"},
		{"build --allow everything .", `--allow "everything"`, "network.host"},
		{"build --push .", "pushing needs a name", "--tag"},
		{"build -t Upper .", "Upper", "lower case"},
		{"build -o type=floppy .", "floppy", ""},
		{"build --jobs=-1 .", "--jobs", ""},
		{"build --call=outlines .", "--call", ""},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			var out, diag strings.Builder
			code := execute(invocation{
				args: append([]string{"cairn"}, strings.Fields(tc.args)...), env: environment{"HOME": t.TempDir()},
				stdin: strings.NewReader(""), stdout: &out, stderr: &diag,
				enter: func(ladder.Isolation) (bool, error) {
					return true, errors.New("a wrong command line came as far as the work")
				},
			})
			lines := strings.Split(strings.TrimSuffix(diag.String(), "\n"), "\n")
			if code != exitUsage {
				t.Errorf("exit code %d, want %d", code, exitUsage)
			}
			if !strings.HasPrefix(lines[0], "cairn: ") || !strings.Contains(lines[0], tc.text) {
				t.Errorf("error %q does not say %q", lines[0], tc.text)
			}
			if tc.hint != "" && (len(lines) != 2 || !strings.HasPrefix(lines[1], "cairn: hint: ") || !strings.Contains(lines[1], tc.hint)) {
				t.Errorf("after %q: want one hint with %q", lines, tc.hint)
			}
			if len(lines) > 2 || out.Len() > 0 {
				t.Errorf("more than an error and a hint: %q %q", out.String(), lines)
			}
		})
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"", "--help", "-h", "help", "help build", "build --help", "build . -h", "registry", "registry serve --help", "run --help",
		"--root x", "--root x --help", "--root=x help build", "system --root x", "help system df"} {
		var out, diag strings.Builder
		code := execute(invocation{args: append([]string{"cairn"}, strings.Fields(args)...), env: environment{}, stdout: &out, stderr: &diag})
		if code != 0 || !strings.Contains(out.String(), "cairn") || diag.Len() > 0 {
			t.Errorf("cairn %s: code %d, stdout %q, stderr %q", args, code, out.String(), diag.String())
		}
	}
}

// TestHelpOfCommands: every help text begins with how the command is called, once, and says no long placeholder twice.
func TestHelpOfCommands(t *testing.T) {
	t.Parallel()
	var visit func(path string, commands []*cli.Command)
	visit = func(path string, commands []*cli.Command) {
		for _, c := range commands {
			name := path + " " + c.Name
			var out, diag strings.Builder
			code := execute(invocation{args: append(strings.Fields(name), "--help"), env: environment{}, stdout: &out, stderr: &diag})
			usage := "\nUsage:\n  " + name
			if len(c.Subcommands) > 0 {
				usage += " COMMAND\n"
			}
			if code != 0 || !strings.HasPrefix(out.String(), name+": ") || !strings.Contains(out.String(), usage) {
				t.Errorf("%s --help: code %d\n%s%s", name, code, out.String(), diag.String())
			}
			for _, f := range c.Flags {
				usage := f.(cli.DocGenerationFlag).GetUsage()
				if _, rest, ok := strings.Cut(usage, "`"); ok {
					if value, _, _ := strings.Cut(rest, "`"); len(value) > 14 && strings.Count(flagHelp(f), value) != 1 {
						t.Errorf("%s: a long placeholder is said twice:\n%s", name, flagHelp(f))
					}
				}
			}
			visit(name, c.Subcommands)
		}
	}
	visit("cairn", invocation{}.app().Commands)
}

// TestGlobalFlags: --root and the flags about registries may stand before the command, and the last one counts.
func TestGlobalFlags(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"--root x images -q":              "cairn images --root=x -q --",
		"--root=x images --root y":        "cairn images --root=x --root=y --",
		"--registry-ca f --root x run i":  "cairn run --registry-ca=f --root=x -- i",
		"--root x system df":              "cairn system df --root=x --",
		"system --root x df --format f":   "cairn system df --root=x --format=f --",
		"--root a system --root b df":     "cairn system df --root=a --root=b --",
		"--insecure-registry h:1 build .": "cairn build --insecure-registry=h:1 -- .",
	} {
		in := invocation{args: append([]string{"cairn"}, strings.Fields(in)...)}
		got, err := in.arranged(in.app())
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v; want %q", in.args, got, err, want)
		}
	}
}
