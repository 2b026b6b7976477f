package build

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
)

// sharedMounts are the cache mounts that come from and go to elsewhere.
type sharedMounts struct {
	options Options
	from    []func() *cache.MountsImport
}

// openMounts prepares what is imported. It is fetched when the first step needs it: with all steps cached, nobody does.
func openMounts(ctx context.Context, o Options) *sharedMounts {
	m := &sharedMounts{options: o}
	for _, l := range o.Share.MountsFrom {
		m.from = append(m.from, sync.OnceValue(func() *cache.MountsImport {
			v := progress.Start(ctx, "cache-mounts-from/"+l.Type+"/"+l.String(), "importing cache mounts from "+l.String())
			im, err := cache.OpenMounts(ctx, l, o.Parts.Registry)
			if err != nil {
				v.Warn(progress.Warning{Rule: "CacheMounts", Message: err.Error()})
			} else {
				fmt.Fprintf(v.Stdout(), "%d cache mounts\n", im.Len())
			}
			v.Done(nil)
			return im
		}))
	}
	return m
}

// fill is solve.Options.FillCache. What cannot be imported is a warning: the mount is then empty, as on a new machine.
func (m *sharedMounts) fill(ctx context.Context, id, dir string) {
	for _, open := range m.from {
		im := open()
		if im == nil {
			continue
		}
		v := progress.Start(ctx, "cache-mount/"+id, "filling cache mount "+id)
		found, err := im.Fill(ctx, m.options.Parts.Store, id, dir)
		if err != nil {
			v.Warn(progress.Warning{Rule: "CacheMounts", Message: err.Error()})
		}
		v.Done(nil)
		if found {
			return
		}
	}
}

// export writes the cache mounts of the plans to where the user wants them.
func (m *sharedMounts) export(ctx context.Context, plans []*plan.Plan) error {
	to := m.options.Share.MountsTo
	if len(to) == 0 {
		return nil
	}
	o := cache.MountsOptions{Registry: m.options.Parts.Registry, Store: m.options.Parts.Store}
	var seeded []string
	o.IDs, seeded = mountIDs(plans)
	for _, open := range m.from {
		if im := open(); im != nil {
			o.From = append(o.From, im)
		}
	}
	for _, l := range to {
		v := progress.Start(ctx, "cache-mounts-to/"+l.Type+"/"+l.String(), "exporting cache mounts to "+l.String())
		for _, id := range seeded {
			v.Warn(progress.Warning{Rule: "CacheMounts", Message: fmt.Sprintf("cache mount %q begins as a copy (from=) and is not exported", id)})
		}
		for _, id := range l.MissingIDs(o.IDs) {
			v.Warn(progress.Warning{Rule: "CacheMounts", Message: fmt.Sprintf("no step of this build has the cache mount %q", id)})
		}
		o.Progress = v.Count
		out, err := cache.ExportMounts(ctx, l, o)
		switch {
		case errors.Is(err, cache.ErrNoMounts):
			v.Warn(progress.Warning{Rule: "CacheMounts", Message: err.Error()})
			err = nil
		case err != nil && l.IgnoreError && ctx.Err() == nil:
			v.Warn(progress.Warning{Rule: "CacheMounts", Message: err.Error()})
			err = nil
		case err == nil:
			fmt.Fprintf(v.Stdout(), "%d cache mounts, manifest %s\n", out.Layers, out.Descriptor.Digest)
		}
		v.Done(err)
		if err != nil {
			return err
		}
	}
	return nil
}

// mountIDs are the ids of all cache mounts of the plans, and apart from them those that begin as a copy of something.
func mountIDs(plans []*plan.Plan) (ids, seeded []string) {
	for _, p := range plans {
		for _, st := range p.Stages {
			for _, step := range st.Steps {
				if step.Run == nil {
					continue
				}
				for _, mnt := range step.Run.Mounts {
					switch {
					case mnt.Type != "cache":
					case mnt.From.IsScratch():
						ids = append(ids, mnt.CacheID)
					default:
						seeded = append(seeded, mnt.CacheID)
					}
				}
			}
		}
	}
	return ids, seeded
}
