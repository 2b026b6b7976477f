package main

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
)

func (in invocation) imagesCommand() *cli.Command {
	return &cli.Command{
		Name: "images", Usage: "list the images of the local store", ArgsUsage: "[flags] [REPOSITORY[:TAG]]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also list images without a name that others were made from"},
			&cli.BoolFlag{Name: "digests", Usage: "show the digests of manifests"},
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"},
				Usage: "list only images with `KEY=VALUE`: dangling, label, before, since, until, reference"},
			formatFlag(),
			&cli.BoolFlag{Name: "no-trunc", Usage: "print whole IDs"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print image IDs only"},
			rootFlag(),
		},
		Action: in.images,
	}
}

func (in invocation) images(c *cli.Context) error {
	args, err := operands(c, 0, 1, "at most one REPOSITORY[:TAG]")
	if err != nil {
		return err
	}
	filters, err := parseFilters(c.StringSlice("filter"), "dangling", "label", "before", "since", "until", "reference")
	if err != nil {
		return err
	}
	if len(args) > 0 {
		filters["reference"] = append(filters["reference"], args[0])
	}
	return in.withImages(c, func(_ *store.Store, local *image.Local) error {
		rows, err := listImages(local, filters, c.Bool("all"))
		if err != nil {
			return err
		}
		l := imageListing(rows, c.Bool("digests"), c.Bool("no-trunc"))
		if c.Bool("quiet") && c.String("format") == "table" {
			return l.column(in.stdout, "ID")
		}
		return l.write(in.stdout, c.String("format"))
	})
}

// imageRow is one name in the list of images.
type imageRow struct {
	image.Entry
	repository, tag string
	created         time.Time
	// size is the sum of the compressed layers, in bytes.
	size   int64
	labels map[string]string
}

// listImages returns the images that filters let through, the newest first. Images without a name from which others were made are
// left out unless all are wanted.
func listImages(local *image.Local, filters filterSet, all bool) ([]imageRow, error) {
	entries, err := local.List()
	if err != nil {
		return nil, err
	}
	keep, err := imageFilter(local, filters)
	if err != nil {
		return nil, err
	}
	inner, err := parentsOf(local, entries)
	if err != nil {
		return nil, err
	}
	named := map[image.ID]bool{}
	for _, e := range entries {
		named[e.ID()] = named[e.ID()] || e.Named()
	}
	var rows []imageRow
	for _, e := range entries {
		if !e.Named() && (named[e.ID()] || inner[e.ID()] && !all) {
			continue
		}
		row, err := newImageRow(local, e)
		if err != nil {
			return nil, err
		}
		if keep(row) {
			rows = append(rows, row)
		}
	}
	slices.SortStableFunc(rows, func(a, b imageRow) int { return cmp.Or(b.created.Compare(a.created), strings.Compare(a.Name, b.Name)) })
	return rows, nil
}

// parentsOf returns the images that others were made from.
func parentsOf(local *image.Local, entries []image.Entry) (map[image.ID]bool, error) {
	st, err := local.Store()
	if err != nil {
		return nil, err
	}
	found := map[image.ID]bool{}
	for _, e := range entries {
		for _, id := range e.IDs {
			if parent, err := st.GetParent(id); err == nil {
				found[parent] = true
			}
		}
	}
	return found, nil
}

func newImageRow(local *image.Local, e image.Entry) (imageRow, error) {
	row := imageRow{Entry: e, repository: "<none>", tag: "<none>", labels: map[string]string{}}
	if name, err := reference.ParseNormalizedNamed(e.Name); err == nil && e.Named() {
		row.repository = reference.FamiliarName(name)
		if tagged, ok := name.(reference.Tagged); ok {
			row.tag = tagged.Tag()
		}
	}
	set, err := local.Get(e.Name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrCorrupt) {
		return row, nil // damaged: its name is still there to be seen and removed
	}
	if err != nil {
		return row, err
	}
	for _, b := range set.Images {
		if b.Created.After(row.created) {
			row.created = b.Created
		}
		for _, l := range b.Layers {
			row.size += l.Descriptor.Size
		}
		img, err := image.NewFromJSON(b.Config)
		if err == nil && img.Config != nil {
			for k, v := range img.Config.Labels {
				row.labels[k] = v
			}
		}
	}
	return row, nil
}

// imageListing shows images with Docker's columns.
func imageListing(rows []imageRow, digests, whole bool) listing {
	l := listing{
		headers: map[string]string{
			"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
			"Size": "SIZE", "Containers": "CONTAINERS", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
		},
		table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
	}
	if digests {
		l.table = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
	}
	for _, r := range rows {
		since, at := "N/A", "N/A"
		if !r.created.IsZero() {
			since, at = units.HumanDuration(time.Since(r.created))+" ago", time.Unix(r.created.Unix(), 0).String()
		}
		l.rows = append(l.rows, map[string]string{
			"ID": shortID(r.ID().String(), whole), "Repository": r.repository, "Tag": r.tag, "Digest": r.Descriptor.Digest.String(),
			"CreatedSince": since, "CreatedAt": at, "Size": units.HumanSizeWithPrecision(float64(r.size), 3),
			"Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
		})
	}
	return l
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
