package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
)

func (in invocation) imagesCommand() *cli.Command {
	return &cli.Command{
		Name: "images", Usage: "list the images of the local store", ArgsUsage: "[flags]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print image IDs only"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print whole IDs"},
			&cli.StringFlag{Name: "format", Usage: "print `table|json`", Value: "table"},
			rootFlag(),
		},
		Action: in.images,
	}
}

// row is one name in the list of images.
type row struct {
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	ID         string    `json:"id"`
	Digest     string    `json:"digest"`
	Created    time.Time `json:"created"`
	// Size is the sum of the compressed layers, in bytes.
	Size int64 `json:"size"`
}

func (in invocation) images(c *cli.Context) error {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	format := c.String("format")
	if format != "table" && format != "json" {
		return usagef("--format %q: unknown format", format).withHint("the formats are table and json")
	}
	st, err := in.openStore(c)
	if err != nil {
		return err
	}
	defer st.Close()
	rows, err := imageRows(image.NewLocal(st))
	if err != nil {
		return err
	}
	switch {
	case c.Bool("quiet"):
		for _, r := range rows {
			if _, err := fmt.Fprintln(in.stdout, shortID(r.ID, c.Bool("no-trunc"))); err != nil {
				return err
			}
		}
		return nil
	case format == "json":
		e := json.NewEncoder(in.stdout)
		for _, r := range rows {
			if err := e.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	return writeTable(in.stdout, rows, c.Bool("no-trunc"))
}

func imageRows(local *image.Local) ([]row, error) {
	entries, err := local.List()
	if err != nil {
		return nil, err
	}
	rows := make([]row, 0, len(entries))
	for _, e := range entries {
		set, err := local.Get(e.Name)
		if err != nil {
			return nil, err
		}
		r := row{Repository: "<none>", Tag: "<none>", Digest: e.Descriptor.Digest.String(), ID: set.ConfigDigest().String()}
		if r.ID == "" {
			r.ID = r.Digest // an index has no config
		}
		if name, err := reference.ParseNormalizedNamed(e.Name); err == nil && !isDigest(e.Name) {
			r.Repository = reference.FamiliarName(name)
			if tagged, ok := name.(reference.Tagged); ok {
				r.Tag = tagged.Tag()
			}
		}
		for _, b := range set.Images {
			if b.Created.After(r.Created) {
				r.Created = b.Created
			}
			for _, l := range b.Layers {
				r.Size += l.Descriptor.Size
			}
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func isDigest(name string) bool {
	_, err := digest.Parse(name)
	return err == nil
}

// shortID is the first twelve digits of a digest, as Docker shows it, or the whole of it.
func shortID(id string, whole bool) string {
	if whole || !isDigest(id) {
		return id
	}
	return digest.Digest(id).Encoded()[:12]
}

func writeTable(w io.Writer, rows []row, whole bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(t, "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE")
	for _, r := range rows {
		created := "-"
		if !r.Created.IsZero() {
			created = units.HumanDuration(time.Since(r.Created)) + " ago"
		}
		cells := []string{printable(r.Repository), printable(r.Tag), shortID(r.ID, whole), created, units.HumanSize(float64(r.Size))}
		_, _ = fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}
