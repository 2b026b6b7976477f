package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/suggest"
	"github.com/urfave/cli/v2"
)

// arrange rewrites the arguments of a command so that its flags stand first and in the form --name=value, whatever the order and
// form they were typed in: `-t x .`, `. -t x`, `-tx`, `-it`, `--tag=x`. What follows "--" is operands. Where operands are a command
// line of their own (`cairn run IMAGE ls -l`), interspersed is false and the first operand ends the flags.
//
// The package behind the commands stops at the first operand, which would silently turn `cairn build . -t x` into a build
// with three contexts.
func arrange(cmd *cli.Command, args []string, interspersed bool) ([]string, error) {
	known := flagKinds(cmd)
	var flags, operands []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			operands = append(operands, args[i+1:]...)
			i = len(args)
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			operands = append(operands, arg)
			if !interspersed {
				operands = append(operands, args[i+1:]...)
				i = len(args)
			}
		case strings.HasPrefix(arg, "--"):
			out, used, err := longFlag(cmd, known, arg, args[i+1:])
			if err != nil {
				return nil, err
			}
			flags, i = append(flags, out), i+used
		default:
			out, used, err := shortFlags(cmd, known, arg, args[i+1:])
			if err != nil {
				return nil, err
			}
			flags, i = append(flags, out...), i+used
		}
	}
	if slices.Contains(flags, "--help") || slices.Contains(flags, "-h") {
		return []string{"--help"}, nil // with an operand, the help of a command of that name would be looked for
	}
	return append(append(flags, "--"), operands...), nil
}

// flagKinds maps every name of a command's flags to whether the flag can stand without a value.
func flagKinds(cmd *cli.Command) map[string]bool {
	known := map[string]bool{"help": true, "h": true}
	for _, f := range cmd.Flags {
		_, bare := f.(*cli.BoolFlag)
		if g, ok := f.(*cli.GenericFlag); ok {
			_, bare = g.Value.(interface{ IsBoolFlag() bool })
		}
		for _, name := range f.Names() {
			known[name] = bare
		}
	}
	return known
}

// longFlag reads one --flag; used is the number of the following arguments that belong to it.
func longFlag(cmd *cli.Command, known map[string]bool, arg string, rest []string) (out string, used int, err error) {
	name, _, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
	bare, ok := known[name]
	switch {
	case !ok:
		return "", 0, unknownFlag(cmd, "--"+name)
	case hasValue || bare:
		return arg, 0, nil
	case len(rest) == 0:
		return "", 0, usagef("flag needs a value: --%s", name).withHint("see `%s --help`", called(cmd))
	}
	return arg + "=" + rest[0], 1, nil
}

// shortFlags reads a group of one-letter flags: the last of them may have a value, attached or following.
func shortFlags(cmd *cli.Command, known map[string]bool, arg string, rest []string) (out []string, used int, err error) {
	letters := arg[1:]
	for i := range letters {
		name := letters[i : i+1]
		bare, ok := known[name]
		after := letters[i+1:]
		switch {
		case !ok && i == 0:
			return nil, 0, unknownFlag(cmd, arg)
		case !ok:
			return nil, 0, unknownFlag(cmd, "-"+name)
		case bare && strings.HasPrefix(after, "="):
			return append(out, "-"+name+after), 0, nil
		case bare:
			out = append(out, "-"+name)
		case after != "":
			return append(out, "-"+name+"="+strings.TrimPrefix(after, "=")), 0, nil
		case len(rest) == 0:
			return nil, 0, usagef("flag needs a value: -%s", name).withHint("see `%s --help`", called(cmd))
		default:
			return append(out, "-"+name+"="+rest[0]), 1, nil
		}
	}
	return out, 0, nil
}

// unknownFlag is the error for a flag that a command does not have, with what was probably meant.
func unknownFlag(cmd *cli.Command, flag string) error {
	flag, _, _ = strings.Cut(flag, "=")
	err := usagef("unknown flag %s for %s", flag, called(cmd))
	if hint, ok := otherFlags(cmd.Name)[flag]; ok {
		return err.withHint("%s", hint)
	}
	var names []string
	for _, f := range cmd.Flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	word := strings.TrimLeft(flag, "-")
	near := suggest.Nearest(word, names)
	if slices.Contains(names, word) {
		near = word // with one hyphen
	}
	if near != "" {
		return err.withHint("did you mean --%s?", near)
	}
	return err.withHint("see `%s --help`", called(cmd))
}

// operands checks the number of a command's operands. names are what the usage line calls them.
func operands(c *cli.Context, atLeast, atMost int, names string) ([]string, error) {
	args := c.Args().Slice()
	if len(args) < atLeast || (atMost >= 0 && len(args) > atMost) {
		got := "none was given"
		if len(args) > 0 {
			got = fmt.Sprintf("got %d: %s", len(args), strings.Join(args, " "))
		}
		return nil, usagef("%s needs %s, %s", called(c.Command), names, got).
			withHint("usage: %s %s", called(c.Command), c.Command.ArgsUsage)
	}
	return args, nil
}
