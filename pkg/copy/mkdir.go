package copy

import (
	"context"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
)

// Directory returns what makes a directory and the missing ones above it, as WORKDIR does: mode 0755, and owned by who
// ("user[:group]"), names that the stage does not know being root (the user may be made later). A directory that exists gives nothing.
func Directory(ctx context.Context, stage layer.Tree, dir, who string, now time.Time) ([]layer.Item, error) {
	r := Request{Chown: who, Stage: stage, Time: now}
	own, err := r.owner()
	if err != nil {
		return nil, err
	}
	c := &copier{req: r, owner: own, up: newUpper(stage, now, nil), res: &Result{}}
	name, err := c.up.resolve(cleanName(dir))
	if err != nil {
		return nil, err
	}
	if err := c.mkdirAll(name, 0o755); err != nil {
		return nil, err
	}
	if err := c.finish(ctx); err != nil {
		return nil, err
	}
	return c.res.Items()
}
