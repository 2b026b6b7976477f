package solve

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/copy"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
)

// copy prepares a COPY or ADD. Its key is the destination, the content of what is copied as it will be in the layer, and the root
// filesystem it goes onto, which a --link does not depend on.
func (st *stage) copy(ctx context.Context, c *plan.Copy) (work, error) {
	req, err := st.copyRequest(ctx, c)
	if err != nil {
		return work{}, err
	}
	content, inventory, err := copy.Inventory(ctx, req)
	if err != nil {
		return work{}, err
	}
	root := st.root.String()
	if req.Independent() {
		root = "independent"
	}
	key := cache.NewKey("copy", append(st.epochInput(),
		cache.Input{Name: "root", Value: root},
		cache.Input{Name: "dest", Value: c.Dest},
		cache.Input{Name: "parents", Value: strconv.FormatBool(c.Parents)},
		cache.Input{Name: "unpack", Value: fmt.Sprint(unpacks(req.Sources))},
		cache.Input{Name: "content", Value: content.String()},
	)...).WithFiles(func(most int) (files []cache.File, ok bool) {
		list, ok := inventory(most)
		for _, f := range list {
			files = append(files, cache.File(f))
		}
		return files, ok
	})
	return work{key: key, do: func(ctx context.Context, v *progress.Vertex) (_ outcome, err error) {
		res, err := copy.Entries(ctx, req)
		if err != nil {
			return outcome{}, err
		}
		warn(v, res.Warnings)
		defer func() { err = errors.Join(err, res.Close()) }()
		l, err := st.write(ctx, res.Write, st.Compression)
		return outcome{Layer: l, warnings: res.Warnings}, err
	}}, nil
}

// warn shows what may not be meant, also of a step that is answered from the cache.
func warn(v *progress.Vertex, warnings []string) {
	for _, w := range warnings {
		v.Warn(progress.Warning{Rule: "Copy", Message: w})
	}
}

// epochInput is the time that files are given in this build (SOURCE_DATE_EPOCH); the time of day is in no key.
func (st *stage) epochInput() []cache.Input {
	if st.epoch == nil {
		return nil
	}
	return []cache.Input{{Name: "epoch", Value: strconv.FormatInt(st.epoch.Unix(), 10)}}
}

// copyRequest brings the files of a COPY or ADD together.
func (st *stage) copyRequest(ctx context.Context, c *plan.Copy) (copy.Request, error) {
	var files layer.Tree
	var err error
	if len(c.Sources) > 0 {
		if files, err = st.files(ctx, c.From); err != nil {
			return copy.Request{}, err
		}
	}
	var remote []copy.Source
	for _, r := range c.Remote {
		t, err := st.Contexts.Remote(ctx, r)
		if err != nil {
			return copy.Request{}, err
		}
		remote = append(remote, copy.Source{Tree: t.Tree, Path: t.Name, Identity: t.Identity})
	}
	req := copy.NewRequest(c, files, remote)
	req.Time = st.now()
	req.Limits.Temp = st.Store.TempFile
	if !req.Independent() {
		// The key needs it only for names of users.
		chain := clone(st.chain)
		req.Stage = layer.Lazy(func() (layer.Tree, error) { return st.tree(ctx, chain) })
	}
	return req, nil
}

func unpacks(sources []copy.Source) (out []bool) {
	for _, s := range sources {
		out = append(out, s.Unpack)
	}
	return out
}

// workdir prepares a WORKDIR, which makes the directory where it is missing.
func (st *stage) workdir(w *plan.Workdir) (work, error) {
	key := cache.NewKey("workdir", append(st.epochInput(),
		cache.Input{Name: "root", Value: st.root.String()},
		cache.Input{Name: "path", Value: w.Path},
		cache.Input{Name: "user", Value: w.User},
	)...)
	return work{key: key, do: func(ctx context.Context, _ *progress.Vertex) (outcome, error) {
		t, err := st.tree(ctx, st.chain)
		if err != nil {
			return outcome{}, err
		}
		items, err := copy.Directory(ctx, t, w.Path, w.User, st.now())
		if err != nil {
			return outcome{}, err
		}
		all := func(ctx context.Context, w *layer.Writer) error { return layer.WriteAll(ctx, w, items) }
		l, err := st.write(ctx, all, st.Compression)
		return outcome{Layer: l}, err
	}}, nil
}
