package main

import (
	"errors"
	"io/fs"
	"os/exec"
	"syscall"

	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/urfave/cli/v2"
)

func (in invocation) unshareCommand() *cli.Command {
	return &cli.Command{
		Name: "unshare", Usage: "run a program in the namespaces that builds run in", ArgsUsage: "[COMMAND [ARG...]]",
		Description: "There an ordinary user is root: the program may mount, and give files to any user of an image. Files of the store that belong to such users\n" +
			"can be looked at and removed. Without COMMAND it is a shell. The exit code is the program's; 125 means that it could not be started.",
		Action: in.unshare,
	}
}

func (in invocation) unshare(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) == 0 {
		if args = []string{in.env["SHELL"]}; args[0] == "" {
			args = []string{"/bin/sh"}
		}
	}
	if done, err := in.enter(ladder.Userns); done {
		return notRun(err)
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return notRun(failf("%v", err))
	}
	// The program takes this one's place: signals, the terminal and the exit code are its own.
	err = syscall.Exec(path, args, in.env.list())
	if errors.Is(err, fs.ErrPermission) {
		return notRun(failf("executing %s: %v", path, err).withHint("is it executable, and readable for this user?"))
	}
	return notRun(failf("executing %s: %v", path, err))
}
