package main

import (
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/urfave/cli/v2"
)

// enter brings the program to the place where RUN can be carried out: namespaces of its own, in which a build may mount and change owners, or
// what is left where there are none. In the process that the user started, done is true and everything has happened already, in a process inside.
func enter(i ladder.Isolation) (done bool, err error) {
	done, code, err := ladder.Enter(i)
	switch {
	case err != nil:
		return true, err
	case done && code != 0:
		return true, exited{code}
	}
	return done, nil
}

// isolationFlag says how RUN is carried out.
func isolationFlag() cli.Flag {
	return &cli.StringFlag{Name: "isolation", Usage: "`auto|userns|userns-single|chroot|ptrace` how RUN is carried out; auto is the best that works here"}
}

// isolation reads isolationFlag.
func isolation(c *cli.Context) (ladder.Isolation, error) {
	i, err := ladder.Parse(c.String("isolation"))
	if err != nil {
		return "", usagef("--isolation: %v", err)
	}
	return i, nil
}

// stateDir is where state lives: --root, else $XDG_DATA_HOME/cairn or $HOME/.local/share/cairn, else where a container has room for it. moved says
// why it is not one of those.
func (in invocation) stateDir(c *cli.Context) (dir, moved string) {
	if root := c.String("root"); root != "" {
		return root, ""
	}
	usual, err := in.env.dataRoot()
	if err != nil {
		usual = ""
	}
	temp := in.env["TMPDIR"]
	if temp == "" {
		temp = "/tmp"
	}
	var contexts []string
	if c.Command.Name == "build" {
		for _, arg := range c.Args().Slice() {
			if dir, err := filepath.Abs(arg); err == nil {
				contexts = append(contexts, dir)
			}
		}
	}
	return ladder.StateDir(ladder.State{Usual: usual, Temp: temp, Avoid: contexts})
}
