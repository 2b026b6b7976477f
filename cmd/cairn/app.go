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
"cairn COMMAND --help" explains a command.
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
	return usagef("%v", err).withHint("see `cairn %s --help`", c.Command.FullName())
}

// arranged is the argument list with the flags of its command put first.
func (in invocation) arranged(app *cli.App) ([]string, error) {
	if len(in.args) < 2 {
		return []string{"cairn", "--help"}, nil
	}
	name, rest := in.args[1], in.args[2:]
	switch {
	case name == "--help" || name == "-h" || name == "help" && len(rest) == 0:
		return []string{"cairn", "--help"}, nil
	case name == "help":
		return in.help(app, rest[0])
	case name == "--version":
		return []string{"cairn", "version"}, nil
	case strings.HasPrefix(name, "-"):
		return nil, usagef("flag %s stands before the command", name).withHint("cairn COMMAND [flags], as in `cairn build -t NAME .`")
	}
	cmd := app.Command(name)
	if cmd == nil {
		return nil, unknownCommand(app.Commands, name)
	}
	path := []string{"cairn", name}
	if len(cmd.Subcommands) > 0 {
		if len(rest) == 0 || rest[0] == "--help" || rest[0] == "-h" {
			return append(path, "--help"), nil
		}
		i := slices.IndexFunc(cmd.Subcommands, func(sub *cli.Command) bool { return sub.HasName(rest[0]) })
		if i < 0 {
			return nil, unknownCommand(cmd.Subcommands, rest[0])
		}
		path, cmd = append(path, rest[0]), cmd.Subcommands[i]
		rest = rest[1:]
	}
	args, err := arrange(cmd, rest, cmd.Name != "run" && cmd.Name != "unshare")
	return append(path, args...), err
}

// help answers `cairn help COMMAND`.
func (in invocation) help(app *cli.App, name string) ([]string, error) {
	if app.Command(name) == nil {
		return nil, unknownCommand(app.Commands, name)
	}
	return []string{"cairn", name, "--help"}, nil
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
		&cli.StringSliceFlag{Name: "registry-mirror", Usage: "ask `[REGISTRY=]MIRROR` first; without REGISTRY for docker.io"},
	}
}

// version is the version of the module that the program was built from.
func version() string {
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
