package main

import (
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/ladder"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

func (in invocation) runCommand() *cli.Command {
	flags := []cli.Flag{
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "leave the container running and print its ID; see ps, logs, stop and rm"},
		&cli.StringFlag{Name: "name", Usage: "call the container `NAME`, with --detach"},
		&cli.BoolFlag{Name: "rm", Usage: "remove a detached container when it ends; of others nothing is ever kept"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set `NAME[=VALUE]` in the environment"},
		&cli.StringSliceFlag{Name: "env-file", Usage: "set the lines NAME[=VALUE] of `FILE` in the environment"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "run in `DIR`"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER[:GROUP]`"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "`SOURCE:TARGET[:ro]` what of this machine is shown inside, and where"},
		&cli.StringFlag{Name: "entrypoint", Usage: "run `COMMAND` in place of the image's entrypoint"},
		&cli.StringFlag{Name: "hostname", Usage: "give the host the name `NAME`"},
		&cli.StringFlag{Name: "network", Usage: "`default|none|host` the network; default is host"},
		&cli.StringSliceFlag{Name: "add-host", Usage: "add `NAME:IP` to /etc/hosts"},
		&cli.StringSliceFlag{Name: "ulimit", Usage: "`NAME=SOFT[:HARD]` a limit"},
		&cli.StringFlag{Name: "shm-size", Usage: "give /dev/shm `SIZE`"},
		&cli.StringFlag{Name: "platform", Usage: "`OS/ARCH[/VARIANT]` which image of several to run"},
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass standard input on"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "run on a terminal of its own"},
		isolationFlag(),
		rootFlag(),
	}
	return &cli.Command{
		Name: "run", Usage: "run a command in an image", ArgsUsage: "[flags] IMAGE [COMMAND [ARG...]]",
		Description: "The command runs in the same sandbox as a RUN step, over a copy of the image that is dropped afterwards. An image that is not in the\n" +
			"local store is taken from its registry. The exit code is the command's; 127 and 126 mean that the command is not there\n" +
			"or cannot be executed, 125 that the container could not be started. With --platform, an image for another platform is an error.",
		Flags:  append(flags, registryFlags()...),
		Action: in.run,
	}
}

// runRequest is a command line of `cairn run` that was read and found right.
type runRequest struct {
	image                 string
	command               []string
	env                   []string
	workdir, user         string
	entrypoint            string
	overrideEntrypoint    bool
	interactive, terminal bool
	platform              *ocispec.Platform
	detach, remove        bool
	name                  string
	isolation             ladder.Isolation
	spec                  executor.Spec
}

func (in invocation) parseRun(c *cli.Context) (_ *runRequest, err error) {
	args, err := operands(c, 1, -1, "an IMAGE")
	if err != nil {
		return nil, err
	}
	req := &runRequest{
		image: args[0], command: args[1:], workdir: c.String("workdir"), user: c.String("user"),
		entrypoint: c.String("entrypoint"), overrideEntrypoint: c.IsSet("entrypoint"),
		detach: c.Bool("detach"), remove: c.Bool("rm"), name: c.String("name"), interactive: c.Bool("interactive"), terminal: c.Bool("tty"),
	}
	switch {
	case req.detach && (req.interactive || req.terminal):
		return nil, usagef("--detach: nobody is left for --interactive and --tty")
	case req.name != "" && !req.detach:
		return nil, usagef("--name: only a container that is left running has a name").withHint("add --detach")
	}
	for _, f := range c.StringSlice("env-file") {
		lines, err := readEnvFile(f, in.env)
		if err != nil {
			return nil, err
		}
		req.env = append(req.env, lines...)
	}
	given, err := expandEnv("env", c.StringSlice("env"), in.env)
	if err != nil {
		return nil, err
	}
	req.env = append(req.env, given...)
	if req.workdir != "" && !path.IsAbs(req.workdir) {
		return nil, usagef("--workdir %q: not an absolute path", req.workdir)
	}
	if req.isolation, err = isolation(c); err != nil {
		return nil, err
	}
	if req.platform, err = onePlatform(c); err != nil {
		return nil, err
	}
	s := &req.spec
	s.Hostname = c.String("hostname")
	mode, err := parseNetwork(c.String("network"))
	if err != nil {
		return nil, err
	}
	s.Network = executor.NetworkMode(mode)
	if s.Hosts, err = parseHosts(c.StringSlice("add-host")); err != nil {
		return nil, err
	}
	if s.Ulimits, err = parseUlimits(c.StringSlice("ulimit")); err != nil {
		return nil, err
	}
	if s.ShmSize, err = parseShmSize(c.String("shm-size")); err != nil {
		return nil, err
	}
	if s.Mounts, err = parseVolumes(c.StringSlice("volume")); err != nil {
		return nil, err
	}
	return req, in.parseStreams(req)
}

// parseStreams decides what the command reads and writes.
func (in invocation) parseStreams(req *runRequest) error {
	p := &req.spec.Process
	if req.terminal {
		f, ok := in.stdin.(*os.File)
		if !ok || !isTerminal(f) {
			return usagef("--tty: standard input is not a terminal").withHint("leave it out, or use --interactive alone")
		}
		p.Terminal = f
		return nil
	}
	if req.interactive {
		p.Stdin = in.stdin
	}
	p.Stdout, p.Stderr = in.stdout, in.stderr
	return nil
}

// parseVolumes reads --volume values: SOURCE:TARGET[:OPTION[,OPTION]], where SOURCE is on this machine.
func parseVolumes(values []string) ([]executor.Mount, error) {
	var out []executor.Mount
	for _, v := range values {
		source, rest, ok := strings.Cut(v, ":")
		target, options, _ := strings.Cut(rest, ":")
		if !ok || source == "" || !path.IsAbs(target) {
			return nil, usagef("--volume %q: not SOURCE:TARGET[:ro]", v).withHint("SOURCE is a path of this machine, TARGET an absolute path inside")
		}
		readOnly, err := parseVolumeOptions(v, options)
		if err != nil {
			return nil, err
		}
		abs, err := filepath.Abs(source)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(abs); err != nil {
			return nil, usagef("--volume %s: %v", v, err)
		}
		out = append(out, executor.Mount{Type: executor.Bind, Source: abs, Target: path.Clean(target), ReadOnly: readOnly})
	}
	return out, nil
}

// parseVolumeOptions reads what follows the target of a --volume. z and Z ask for a label of SELinux: the command has the rights of the user who
// runs cairn and no label of its own, so there is nothing to do for them.
func parseVolumeOptions(volume, options string) (readOnly bool, err error) {
	for _, o := range strings.Split(options, ",") {
		switch o {
		case "ro":
			readOnly = true
		case "", "rw", "z", "Z":
		default:
			return false, usagef("--volume %q: unknown option %q", volume, o).withHint("the options are ro and rw; z and Z do nothing")
		}
	}
	return readOnly, nil
}

// isTerminal reports whether a file is a terminal.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
