package main

import (
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/suggest"
	"github.com/urfave/cli/v2"
)

// This file knows what people type who come from other tools, and what it is called here.

// otherFlags says what to write for the flags of docker, buildah and kaniko that a command does not have.
func otherFlags(command string) map[string]string {
	switch command {
	case "build":
		return buildWords()
	case "run":
		return runWords()
	case "logs":
		const times = "output is kept without its times"
		return map[string]string{"-t": times, "--timestamps": times, "--since": times, "--until": times}
	}
	return nil
}

func buildWords() map[string]string {
	const (
		tag     = "use --tag NAME --push"
		context = "the context is the argument of cairn build, not a flag"
		host    = "use --insecure-registry HOST, for one registry"
		limits  = "a step has the limits of the shell that cairn is started from; --ulimit and --shm-size can be set"
	)
	return map[string]string{
		"--destination": tag, "-d": tag, "--dockerfile": "use --file", "--context": context, "-c": context,
		"--tls-verify": host, "--skip-tls-verify": host, "--insecure": host,
		"--no-push":     "nothing is pushed without --push",
		"--tar-path":    "use --output type=docker,dest=FILE",
		"--digest-file": "use --metadata-file FILE",
		"--authfile":    "use `cairn login`, or set DOCKER_CONFIG to a folder with a config.json",
		"--layers":      "every step makes a layer and is cached; --no-cache turns caching off",
		"--builder":     "there are no builders to choose from: leave it out",
		"--squash":      "leave it out, or end the Dockerfile with a stage FROM scratch that copies what is wanted",
		"--memory":      limits, "-m": limits, "--memory-swap": limits, "--cpus": limits, "--cpu-shares": limits, "--cpu-quota": limits,
		"--cpuset-cpus": limits, "--cgroup-parent": limits,
	}
}

func runWords() map[string]string {
	const (
		ports  = "the network is this machine's: what listens in the container is reached without it"
		limits = "a container has the limits of the shell that cairn is started from; --ulimit and --shm-size can be set"
		rights = "a container has the rights of a RUN step, and no others can be given"
		mount  = "use --volume SOURCE:TARGET[:ro]"
	)
	return map[string]string{
		"-p": ports, "--publish": ports, "-P": ports, "--publish-all": ports, "--expose": ports,
		"--memory": limits, "-m": limits, "--cpus": limits, "--cgroup-parent": limits, "--pids-limit": limits,
		"--privileged": rights, "--cap-add": rights, "--cap-drop": rights, "--security-opt": rights, "--device": rights,
		"--mount": mount, "--volumes-from": mount,
		"-h":    "use --hostname NAME; help is --help",
		"--net": "use --network",
	}
}

// otherCommands says what to write for commands of docker, podman and buildah.
func otherCommands() map[string]string {
	const build, remove = "use `cairn build`", "use `cairn system prune`"
	return map[string]string{
		"buildx": build, "bud": build, "image build": build, "builder build": build, "compose": "there is no compose: build and run each image",
		"kill": "use `cairn stop --time 0`, or `cairn rm --force`", "prune": remove, "image prune": remove, "container prune": remove, "builder prune": remove,
		"image ls": "use `cairn images`", "image list": "use `cairn images`", "list": "use `cairn images`", "ls": "use `cairn ps`",
		"image rm": "use `cairn rmi`", "image remove": "use `cairn rmi`", "container ls": "use `cairn ps`", "container list": "use `cairn ps`",
		"df": "use `cairn system df`", "info": "use `cairn doctor` or `cairn system df`", "check": "use `cairn build --check` or `cairn system check`",
		"serve": "use `cairn registry serve`", "start": "use `cairn run --detach`", "create": "use `cairn run --detach`", "restart": "use `cairn run --detach`",
		"attach": "use `cairn logs --follow`", "exec": "a running container cannot be entered; `cairn run` starts another one",
		"commit": "a container's changes are not kept: write them as RUN in a Dockerfile", "import": "use ADD of the archive in a Dockerfile, or `cairn load`",
		"export": "use `cairn build --output type=tar,dest=FILE`", "cp": "use `cairn build --output DIR`",
	}
}

// called is how a command is called, with its parents, as `cairn system df`; setHelp has written it down.
func called(c *cli.Command) string { return c.UsageText }

// unknownCommand is the error for words that are no command of parent: the first is not known there.
func unknownCommand(parent string, commands []*cli.Command, typed []string) error {
	var names []string
	for _, c := range commands {
		names = append(names, c.Names()...)
	}
	err := usagef("unknown command %q", typed[0])
	if parent != "cairn" {
		err = usagef("unknown command %q of %s", typed[0], parent)
	} else if hint := otherCommand(commands, typed); hint != "" {
		return err.withHint("%s", hint)
	}
	if best := suggest.Nearest(typed[0], names); best != "" {
		return err.withHint("did you mean `%s %s`?", parent, best)
	}
	return err.withHint("see `%s --help`", parent)
}

// otherCommand is the hint for a command of another tool, or for one that is named by what it is about: `image tag`, `container logs`.
func otherCommand(commands []*cli.Command, typed []string) string {
	words := otherCommands()
	if len(typed) > 1 {
		if hint, ok := words[typed[0]+" "+typed[1]]; ok {
			return hint
		}
		groups := []string{"image", "container", "builder", "buildx", "manifest"}
		known := func(c *cli.Command) bool { return c.HasName(typed[1]) }
		if slices.Contains(groups, typed[0]) && !strings.HasPrefix(typed[1], "-") && slices.ContainsFunc(commands, known) {
			return "use `cairn " + typed[1] + "`"
		}
	}
	return words[typed[0]]
}
