package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/urfave/cli/v2"
)

// invocation is one start of the program, with everything it takes from outside.
type invocation struct {
	args           []string
	env            environment
	stdin          io.Reader
	stdout, stderr io.Writer
	// enter brings the program to the place in which it can work; see enter.go.
	enter func(ladder.Isolation) (done bool, err error)
}

// execute carries out one command line and returns the exit code.
func execute(in invocation) (code int) {
	defer func() {
		if r := recover(); r != nil {
			writeLine(in.stderr, fmt.Sprintf("cairn: this is a bug: %v", r))
			writeLine(in.stderr, "cairn: hint: report it with the lines below: "+issuesURL)
			_, _ = in.stderr.Write(debug.Stack())
			code = exitFailed
		}
	}()
	ctx, stop := withSignals(context.Background())
	defer stop()
	app := in.app()
	args, err := in.arranged(app)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if cause, ok := errors.AsType[signalled](context.Cause(ctx)); ok && err != nil && !isExited(err) {
		err = cause
	}
	return report(in.stderr, err)
}

const appHelp = `cairn builds OCI images from Dockerfiles, with no daemon and no root

Usage:
  cairn COMMAND [flags] [arguments]

Commands:
{{range .VisibleCommands}}  {{printf "%-10s" .Name}}{{.Usage}}
{{end}}
"cairn COMMAND --help" explains a command. --root and the flags about registries may also stand before it.
`

const issuesURL = "https://github.com/cairn-build/cairn/issues"

// app is the table of commands.
func (in invocation) app() *cli.App {
	app := &cli.App{
		Name:                      "cairn",
		Usage:                     "builds OCI images from Dockerfiles, with no daemon and no root",
		UsageText:                 "cairn COMMAND [flags] [arguments]",
		CustomAppHelpTemplate:     appHelp,
		Version:                   version(),
		HideHelpCommand:           true,
		HideVersion:               true,
		DisableSliceFlagSeparator: true,
		Writer:                    in.stdout,
		ErrWriter:                 in.stderr,
		ExitErrHandler:            func(*cli.Context, error) {}, // report does that
		Commands: []*cli.Command{
			in.buildCommand(), in.runCommand(), in.pushCommand(), in.pullCommand(), in.imagesCommand(),
			in.registryCommand(), in.doctorCommand(), in.versionCommand(),
		},
	}
	app.Commands = slices.Concat(app.Commands, in.containerCommands(), in.storeCommands(), []*cli.Command{in.unshareCommand()})
	setHelp(app.Commands, app.Name)
	for _, c := range app.Commands {
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		for _, sub := range c.Subcommands {
			sub.OnUsageError = usageError
			sub.HideHelpCommand = true
		}
	}
	return app
}

// usageError turns what the flag parser says into an error of the command line.
func usageError(c *cli.Context, err error, _ bool) error {
	return usagef("%v", err).withHint("see `%s --help`", called(c.Command))
}

// arranged is the argument list with the flags of its command put first.
func (in invocation) arranged(app *cli.App) ([]string, error) {
	global, words, err := globals(in.args[min(1, len(in.args)):])
	if err != nil {
		return nil, err
	}
	if len(words) == 0 || slices.Contains([]string{"--help", "-h"}, words[0]) {
		return []string{"cairn", "--help"}, nil
	}
	switch words[0] {
	case "help":
		if words = words[1:]; len(words) == 0 {
			return []string{"cairn", "--help"}, nil
		}
		words = append(slices.Clone(words), "--help")
	case "--version":
		words = []string{"version"}
	}
	path, commands := "cairn", app.Commands
	out := []string{path}
	for {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(words[0]) })
		if i < 0 {
			return nil, unknownCommand(path, commands, words)
		}
		cmd := commands[i]
		path, out, commands = called(cmd), append(out, words[0]), cmd.Subcommands
		more, rest := []string(nil), words[1:]
		if len(commands) > 0 {
			more, rest, err = globals(rest)
		}
		switch {
		case err != nil:
			return nil, err
		case len(commands) == 0:
			args, err := arrange(cmd, append(global, rest...), cmd.Name != "run" && cmd.Name != "unshare")
			return append(out, args...), err
		case len(rest) == 0 || rest[0] == "--help" || rest[0] == "-h":
			return append(out, "--help"), nil
		}
		global, words = append(global, more...), rest
	}
}

// globals takes the flags off the front of args that can stand before a command: most commands have them, and take them after their names too.
func globals(args []string) (flags, rest []string, err error) {
	all := append(registryFlags(), rootFlag())
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		name, _, hasValue := strings.Cut(args[0][2:], "=")
		if !slices.ContainsFunc(all, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) }) {
			break
		}
		n := 2
		if hasValue {
			n = 1
		}
		if len(args) < n {
			return nil, nil, usagef("flag needs a value: --%s", name).withHint("see `cairn --help`")
		}
		flags, args = append(flags, args[:n]...), args[n:]
	}
	if len(args) == 0 || !strings.HasPrefix(args[0], "-") || slices.Contains([]string{"--help", "-h", "--version"}, args[0]) {
		return flags, args, nil
	}
	hint := "cairn COMMAND [flags], as in `cairn build -t NAME .`"
	if args[0] == "-v" || args[0] == "-V" {
		hint = "`cairn version` prints the version"
	}
	return nil, nil, usagef("flag %s stands before the command", args[0]).withHint("%s", hint)
}

// rootFlag is where state lives.
func rootFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "root", Usage: "keep images, layers and caches in `DIR`; without it in $XDG_DATA_HOME/cairn",
	}
}

// registryFlags say how registries are reached.
func registryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "registry-ca", Usage: "trust the certificate authorities in `FILE` (PEM), besides the system's"},
		&cli.StringSliceFlag{Name: "insecure-registry", Usage: "speak plain HTTP or unverified TLS with `HOST[:PORT]`"},
		&cli.StringSliceFlag{Name: "registry-mirror", Usage: "`[REGISTRY=]MIRROR` to ask first; without REGISTRY for docker.io"},
	}
}

// buildVersion is what `make build` knows of the source: the commit, and the tag before it where there is one. The linker sets it.
var buildVersion string

// version is the version that the program was built from: buildVersion, or else that of the module.
func version() string {
	if buildVersion != "" {
		return buildVersion
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}

func (in invocation) versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version of cairn",
		Action: func(c *cli.Context) error {
			if _, err := operands(c, 0, 0, "no arguments"); err != nil {
				return err
			}
			_, err := fmt.Fprintln(in.stdout, "cairn", version())
			return err
		},
	}
}
