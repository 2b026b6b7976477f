package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// helpColumn is where the explanations of flags begin; a flag that is longer has its explanation on the next line.
const helpColumn = 32

// setHelp gives every command a help text that fits a terminal: the library's own puts all flags into one table, as wide as its longest.
func setHelp(commands []*cli.Command, path string) {
	for _, c := range commands {
		setHelp(c.Subcommands, path+" "+c.Name)
		c.UsageText = path + " " + c.Name // see called
		c.CustomHelpTemplate = strings.ReplaceAll(helpText(c, path+" "+c.Name), "{{", `{{"{{"}}`)
	}
}

func helpText(c *cli.Command, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nUsage:\n  %s", name, c.Usage, name)
	if len(c.Subcommands) > 0 {
		b.WriteString(" COMMAND")
	}
	if c.ArgsUsage != "" {
		b.WriteString(" " + c.ArgsUsage)
	}
	b.WriteString("\n")
	if c.Description != "" {
		b.WriteString("\n" + c.Description + "\n")
	}
	if len(c.Subcommands) > 0 {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Subcommands {
			fmt.Fprintf(&b, "  %-*s%s\n", helpColumn-2, sub.Name, sub.Usage)
		}
	}
	if len(c.Flags) > 0 {
		b.WriteString("\nFlags:\n")
	}
	for _, f := range c.Flags {
		b.WriteString(flagHelp(f))
	}
	return b.String()
}

// flagHelp is the help of one flag. In its usage, what stands in backquotes is its value; where the usage begins with it, it is not said again.
func flagHelp(f cli.Flag) string {
	var short, long string
	for _, n := range f.Names() {
		if len(n) == 1 {
			short = "-" + n + ", "
		} else if long == "" {
			long = "--" + n
		}
	}
	if short == "" {
		short = "    "
	}
	var usage, value string
	if d, ok := f.(cli.DocGenerationFlag); ok {
		usage = d.GetUsage()
	}
	if before, rest, ok := strings.Cut(usage, "`"); ok {
		var after string
		value, after, _ = strings.Cut(rest, "`")
		if usage = before + value + after; before == "" {
			usage = strings.TrimSpace(after)
		}
		if !strings.HasPrefix(value, "[=") {
			value = " " + value
		}
	}
	left := "  " + short + long + value
	if len(left) > helpColumn-2 {
		return left + "\n" + strings.Repeat(" ", helpColumn) + usage + "\n"
	}
	return fmt.Sprintf("%-*s%s\n", helpColumn, left, usage)
}
