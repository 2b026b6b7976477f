package plan

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/cairn-build/cairn/pkg/dockerfile"
)

// The texts in this file are what `docker buildx build --call` prints without format=json, because people and scripts know them.

// WriteText writes the outline as tables for a terminal.
func (o *Outline) WriteText(w io.Writer) error {
	var b strings.Builder
	if o.Name != "" || o.Description != "" {
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		rows := [][]string{{"TARGET:", name}}
		if o.Description != "" {
			rows = append(rows, []string{"DESCRIPTION:", o.Description})
		}
		table(&b, 1, rows)
		b.WriteString("\n")
	}
	rows := [][]string{{"BUILD ARG", "VALUE", "DESCRIPTION"}}
	for _, a := range o.Args {
		rows = append(rows, []string{a.Name, a.Value, a.Description})
	}
	section(&b, rows)
	section(&b, needRows("SECRET", o.Secrets))
	section(&b, needRows("SSH", o.SSH))
	_, err := io.WriteString(w, b.String())
	return err
}

func needRows(title string, needs []OutlineNeed) [][]string {
	rows := [][]string{{title, "REQUIRED"}}
	for _, n := range needs {
		required := ""
		if n.Required {
			required = "true"
		}
		rows = append(rows, []string{n.Name, required})
	}
	return rows
}

// section writes a table and an empty line, or nothing where there is only the head.
func section(b *strings.Builder, rows [][]string) {
	if len(rows) > 1 {
		table(b, 3, rows)
		b.WriteString("\n")
	}
}

// table writes rows in columns with gap blanks between them.
func table(b *strings.Builder, gap int, rows [][]string) {
	tw := tabwriter.NewWriter(b, 0, 0, gap, ' ', 0)
	for _, r := range rows {
		_, _ = fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // a strings.Builder takes everything
}

// WriteText writes the stages as a table for a terminal.
func (l *TargetList) WriteText(w io.Writer) error {
	rows := [][]string{{"TARGET", "DESCRIPTION"}}
	for _, t := range l.Targets {
		name := t.Name
		if t.Default {
			name = strings.TrimSpace(name + " (default)")
		}
		rows = append(rows, []string{name, t.Description})
	}
	var b strings.Builder
	table(&b, 1, rows)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteText writes the findings, each with the lines it is about. What makes a build impossible is not among them: that is an error.
func (r *CheckReport) WriteText(w io.Writer) error {
	var b strings.Builder
	switch n := len(r.Warnings); {
	case n == 1:
		b.WriteString("Check complete, 1 warning has been found!\n")
	case n > 1:
		fmt.Fprintf(&b, "Check complete, %d warnings have been found!\n", n)
	case r.Error == nil:
		b.WriteString("Check complete, no warnings found.\n")
	}
	for _, warning := range r.Warnings {
		b.WriteString("\nWARNING: " + warning.RuleName)
		if warning.URL != "" {
			b.WriteString(" - " + warning.URL)
		}
		b.WriteString("\n" + warning.Detail + "\n" + r.excerpt(warning.Location))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// excerpt is the lines around a place.
func (r *CheckReport) excerpt(at *JSONLocation) string {
	if at == nil || len(at.Ranges) == 0 || len(r.Sources) == 0 {
		return ""
	}
	file := &dockerfile.File{Name: r.Sources[0].Filename, Data: r.Sources[0].Data}
	loc := dockerfile.Location{First: at.Ranges[0].Start.Line, Last: at.Ranges[len(at.Ranges)-1].End.Line}
	var placed *dockerfile.Error
	if errors.As(file.ErrorAt(loc, errors.New("here")), &placed) {
		return placed.Excerpt()
	}
	return ""
}
