package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/urfave/cli/v2"
)

func (in invocation) doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "say how builds work in this place, and what would make them work better",
		Description: "Every isolation is tried by running a program in it. The exit code is 0 if one of them works.\n" +
			"docs/confinement.md says what each of them is, and what CI platforms give.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Usage: "answer as `text|json`", Value: "text"},
			rootFlag(),
		},
		Action: in.doctor,
	}
}

func (in invocation) doctor(c *cli.Context) error {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	format := c.String("format")
	if format != "text" && format != "json" {
		return usagef("--format %q: want text or json", format)
	}
	state, moved := in.stateDir(c)
	d := ladder.Diagnose(c.Context, state, in.env.list())
	d.StateMoved = moved
	if format == "json" {
		data, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			return err
		}
		if _, err := in.stdout.Write(append(data, '\n')); err != nil {
			return err
		}
	} else if err := writeDiagnosis(in.stdout, d); err != nil {
		return err
	}
	if d.Rung == "" {
		return exited{exitFailed}
	}
	return nil
}

// writeDiagnosis writes a diagnosis for people.
func writeDiagnosis(w io.Writer, d ladder.Diagnosis) error {
	var b strings.Builder
	if d.Rung == "" {
		b.WriteString("builds do not work here\n")
	} else {
		fmt.Fprintf(&b, "builds work here: isolation %s, executor %s, snapshotter %s\n", d.Rung, d.Executor, d.Snapshotter)
	}
	fmt.Fprintf(&b, "state   %s\n", d.State)
	if d.StateMoved != "" {
		fmt.Fprintf(&b, "        %s\n", d.StateMoved)
	}
	fmt.Fprintf(&b, "kernel  %s\nuid     %d\n", d.Kernel, d.UID)
	for _, t := range d.Rungs {
		verdict := "no"
		if t.Works {
			verdict = "works: " + t.Place
		}
		fmt.Fprintf(&b, "\n%-14s %s (%d ms)\n", t.Rung, verdict, t.Milliseconds)
		if t.Obstacle != "" {
			fmt.Fprintf(&b, "    %s\n", oneLine(t.Obstacle))
		}
		if t.Fix != "" {
			fmt.Fprintf(&b, "    to change that: %s\n", oneLine(t.Fix))
		}
	}
	for _, f := range d.Floors {
		if !f.Met {
			fmt.Fprintf(&b, "\nthis kernel has no %s (Linux %s): %s\n", f.Feature, f.Needs, f.Without)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine makes one printable line of a text.
func oneLine(s string) string { return printable(strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")) }
