package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/templates"
	"github.com/urfave/cli/v2"
)

// This file shows lists and objects in the ways of Docker's commands: a table, or as --format says.

// listing is rows of one kind.
type listing struct {
	// headers are the fields of a row and the titles of their columns.
	headers map[string]string
	// table is what the table shows, as a template of one row: columns are separated by tabs.
	table string
	rows  []map[string]string
}

// formatFlag is --format of commands that show lists.
func formatFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "format", Value: "table",
		Usage: "show a `table`, \"table TEMPLATE\" with columns separated by \\t, json, or each row by a Go template such as '{{.ID}}'",
	}
}

// write shows the rows in a format. Nothing is written if the template is wrong.
func (l listing) write(w io.Writer, format string) error {
	if format == "json" {
		return l.writeJSON(w)
	}
	text, isTable := strings.CutPrefix(format, "table")
	text = strings.TrimLeft(text, " ")
	if isTable && text == "" {
		text = l.table
	}
	if !isTable {
		text = format
	}
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	tmpl, err := templates.Parse(text)
	if err != nil {
		return formatError(format, err)
	}
	tmpl.Option("missingkey=error")
	var out bytes.Buffer
	if isTable {
		header, err := tmpl.Clone()
		if err != nil {
			return err
		}
		if err := header.Funcs(templates.HeaderFunctions).Execute(&out, l.headers); err != nil {
			return formatError(format, err)
		}
		out.WriteByte('\n')
	}
	for _, r := range l.rows {
		if err := tmpl.Execute(&out, harmless(r)); err != nil {
			return formatError(format, err)
		}
		out.WriteByte('\n')
	}
	if !isTable {
		_, err := out.WriteTo(w)
		return err
	}
	t := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if _, err := out.WriteTo(t); err != nil {
		return err
	}
	return t.Flush()
}

func (l listing) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, r := range l.rows {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// column writes one field of each row, a line each.
func (l listing) column(w io.Writer, name string) error {
	for _, r := range l.rows {
		if _, err := fmt.Fprintln(w, printable(r[name])); err != nil {
			return err
		}
	}
	return nil
}

// harmless is a row without what could drive a terminal.
func harmless(row map[string]string) map[string]string {
	out := make(map[string]string, len(row))
	for k, v := range row {
		out[k] = printable(v)
	}
	return out
}

func formatError(format string, err error) error {
	return usagef("--format %q: %v", format, err).withHint("a Go template over the fields that --format json shows")
}

// writeObjects shows what inspect found: as a JSON list, or each by a template. A field that an object does not have by the
// name of its struct may be meant by its name in JSON.
func writeObjects[T any](w io.Writer, objects []T, format string) error {
	if format == "" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "    ")
		if objects == nil {
			objects = []T{}
		}
		return e.Encode(objects)
	}
	if format == "json" {
		format = "{{json .}}"
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return formatError(format, err)
	}
	var out bytes.Buffer
	for _, o := range objects {
		at := out.Len()
		err := tmpl.Execute(&out, o)
		if err != nil {
			out.Truncate(at)
			if rerr := executeRaw(tmpl.Option("missingkey=error").Execute, &out, o); rerr != nil {
				return formatError(format, err)
			}
		}
		out.WriteByte('\n')
	}
	_, err = io.WriteString(w, printableLines(out.String()))
	return err
}

// executeRaw gives a template the JSON form of an object.
func executeRaw(execute func(io.Writer, any) error, w *bytes.Buffer, o any) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	var raw any
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	at := w.Len()
	if err := execute(w, raw); err != nil {
		w.Truncate(at)
		return err
	}
	return nil
}

// printableLines is printable for text of several lines.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = printable(l)
	}
	return strings.Join(lines, "\n")
}
