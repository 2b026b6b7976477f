package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

func (in invocation) systemCommand() *cli.Command {
	return &cli.Command{
		Name: "system", Usage: "look after the local store",
		Subcommands: []*cli.Command{
			{
				Name: "df", Usage: "show what the local store takes up", ArgsUsage: "[flags]",
				Flags: []cli.Flag{formatFlag(), rootFlag()}, Action: in.systemDF,
			},
			{
				Name: "prune", Usage: "remove what nothing needs", ArgsUsage: "[flags]",
				Description: "Removed are containers that have ended, images without a name from which no other was made, and all content that no image and no cache record needs.\n" +
					"With --all also all other images, the build cache and the directories of RUN cache mounts. --max-used-space and --keep-duration\n" +
					"say how much of the build cache stays, with --all or without. Nobody else may use the store.",
				Flags: append(boundFlags(),
					&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also remove images with names, and the build cache"},
					&cli.StringSliceFlag{Name: "filter", Usage: "remove only what is `KEY=VALUE`: until=24h, label=KEY[=VALUE] (images only)"},
					&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "do it; without this flag nothing is removed"},
					rootFlag(),
				),
				Action: in.systemPrune,
			},
			{
				Name: "check", Usage: "look for damage in the local store", ArgsUsage: "[flags]",
				Description: "Each problem is a line on standard output, and the exit code is then 1. Nothing is changed. What is damaged is never used: builds\n" +
					"make or fetch it again. Without --read-data the content of layers is not read.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "read-data", Usage: "read everything and compare it with its digest"},
					rootFlag(),
				},
				Action: in.systemCheck,
			},
		},
	}
}

// inside does something to the store in the namespaces that the snapshots belong to.
func (in invocation) inside(c *cli.Context, work func(*store.Store, *image.Local) error) error {
	if done, err := in.enter(ladder.Auto); done {
		return err
	}
	return in.withImages(c, work)
}

func (in invocation) systemDF(c *cli.Context) error {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	return in.inside(c, func(st *store.Store, local *image.Local) error {
		usage, err := st.Usage(c.Context)
		if err != nil {
			return err
		}
		containers, err := in.detachedContainers(c)
		if err != nil {
			return err
		}
		rows, err := usageRows(local, usage, containers)
		if err != nil {
			return err
		}
		return usageListing(rows).write(in.stdout, c.String("format"))
	})
}

// usageRow is one kind of what a store holds. free is how many of the bytes nothing uses.
type usageRow struct {
	name          string
	total, active int
	size, free    int64
}

// usageRows are Docker's. Only containers that were left running are kept, and nothing of ours is a volume.
func usageRows(local *image.Local, u store.Usage, containers []*detached) ([]usageRow, error) {
	entries, err := local.List()
	if err != nil {
		return nil, err
	}
	all := map[image.ID]bool{}
	for _, e := range entries {
		all[e.ID()] = true
	}
	used, err := imageUsers(local, containers)
	if err != nil {
		return nil, err
	}
	inUse, err := used.size(local)
	if err != nil {
		return nil, err
	}
	c := usageRow{name: "Containers", total: len(containers)}
	for _, d := range containers {
		n := d.size()
		c.size += n
		if d.running() {
			c.active++
		} else {
			c.free += n
		}
	}
	return []usageRow{
		{"Images", len(all), len(used), u.Images, max(0, u.Images-inUse)}, c, {name: "Local Volumes"},
		{"Build Cache", u.Records + u.CacheDirs, 0, u.Caches, u.Caches},
	}, nil
}

// usageListing shows what a store takes up with Docker's columns.
func usageListing(rows []usageRow) listing {
	l := listing{
		headers: map[string]string{
			"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE",
		},
		table: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
	}
	for _, r := range rows {
		free := units.HumanSize(float64(r.free))
		if r.size > 0 && r.name != "Build Cache" {
			free += fmt.Sprintf(" (%d%%)", r.free*100/r.size)
		}
		l.rows = append(l.rows, map[string]string{
			"Type": r.name, "TotalCount": strconv.Itoa(r.total), "Active": strconv.Itoa(r.active), "Size": units.HumanSize(float64(r.size)), "Reclaimable": free,
		})
	}
	return l
}

func (in invocation) systemCheck(c *cli.Context) error {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	return in.inside(c, func(st *store.Store, _ *image.Local) error {
		problems := st.Check(c.Context, c.Bool("read-data"))
		if err := c.Context.Err(); err != nil {
			return err
		}
		for _, p := range problems {
			if _, err := fmt.Fprintln(in.stdout, printable(p.Error())); err != nil {
				return err
			}
		}
		switch n := len(problems); n {
		case 0:
			return nil
		case 1:
			return failf("checking store %s: there is a problem", st.Root()).withHint(checkHint)
		default:
			return failf("checking store %s: there are %d problems", st.Root(), n).withHint(checkHint)
		}
	})
}

// checkHint is what can be done about a damaged store.
const checkHint = "what is damaged is not used; build or pull the images again, or drop it all with `cairn system prune --all --force`"

func (in invocation) systemPrune(c *cli.Context) error {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	filters, err := parseFilters(c.StringSlice("filter"), "until", "label")
	if err != nil {
		return err
	}
	bound, err := pruneBound(c)
	if err != nil {
		return err
	}
	if !c.Bool("force") {
		what := "containers that have ended, images without a name and content that nothing needs"
		if c.Bool("all") {
			what = "containers that have ended, all images and the build cache"
		}
		return usagef("system prune removes %s, which cannot be undone", what).withHint("say --force to do it")
	}
	return in.inside(c, func(st *store.Store, local *image.Local) error {
		containers, err := in.detachedContainers(c)
		if err != nil {
			return err
		}
		err = in.prune(c.Context, pruning{st, local, containers, filters, bound, c.Bool("all")})
		if errors.Is(err, store.ErrBusy) {
			return failf("%v", err).withHint("wait until other cairn commands have ended, and stop the containers that `cairn ps` shows")
		}
		return err
	})
}

// pruning is what system prune works with.
type pruning struct {
	store      *store.Store
	local      *image.Local
	containers []*detached
	filters    filterSet
	// bound is what of the caches stays; nil says nothing of it.
	bound *store.Bound
	all   bool
}

// prune removes containers, images, then caches, then what nothing needs any more, and says what.
func (in invocation) prune(ctx context.Context, p pruning) error {
	before, err := p.store.Usage(ctx)
	if err != nil {
		return err
	}
	// Who cannot have the store for himself learns it before anything is gone.
	if _, err := p.store.Prune(ctx); err != nil {
		return err
	}
	freed, err := in.pruneContainers(p)
	if err != nil {
		return err
	}
	if err := in.pruneImages(p); err != nil {
		return err
	}
	dropped, err := p.caches(ctx)
	if err != nil {
		return err
	}
	if n := dropped.Records + dropped.CacheDirs; n > 0 {
		if _, err := fmt.Fprintf(in.stdout, "Deleted build cache objects: %d\n\n", n); err != nil {
			return err
		}
	}
	if _, err := p.store.Prune(ctx); err != nil {
		return err
	}
	after, err := p.store.Usage(ctx)
	if err != nil {
		return err
	}
	freed += max(0, before.Images+before.Caches-after.Images-after.Caches)
	_, err = fmt.Fprintf(in.stdout, "Total reclaimed space: %s\n", units.HumanSize(float64(freed)))
	return err
}

// pruneImages removes the images that are meant: those without a name, or all; children before their parents.
func (in invocation) pruneImages(p pruning) error {
	wrote := false
	for {
		rows, err := listImages(p.local, p.filters, false)
		if err != nil {
			return err
		}
		n := 0
		for _, r := range rows {
			if r.Named() && !p.all {
				continue
			}
			gone, err := p.local.Delete(r.Name, image.DeleteOptions{Force: true})
			if errors.Is(err, image.ErrConflict) {
				continue // others were made from it: they go first
			}
			if err != nil {
				return err
			}
			for _, g := range gone {
				if !wrote {
					_, _ = fmt.Fprintln(in.stdout, "Deleted Images:")
					wrote = true
				}
				line := "untagged: " + g.Untagged
				if g.Deleted != "" {
					line = "deleted: " + g.Deleted
				}
				if _, err := fmt.Fprintln(in.stdout, printable(line)); err != nil {
					return err
				}
				n++
			}
		}
		if n == 0 {
			break
		}
	}
	if wrote {
		_, _ = fmt.Fprintln(in.stdout)
	}
	return nil
}
