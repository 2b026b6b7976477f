package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
)

// boundFlags say how much of the build cache stays.
func boundFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "max-used-space", Usage: "remove of the build cache what was not used for longest, until it takes up `SIZE` at most: 10GB"},
		&cli.DurationFlag{Name: "keep-duration", Usage: "keep of the build cache what was used in the last `DURATION`: 48h"},
	}
}

// pruneBound reads them; nil if neither is given.
func pruneBound(c *cli.Context) (*store.Bound, error) {
	if !c.IsSet("max-used-space") && !c.IsSet("keep-duration") {
		return nil, nil
	}
	b := &store.Bound{MaxBytes: -1}
	if c.IsSet("max-used-space") {
		n, err := parseSpace(c.String("max-used-space"))
		if err != nil {
			return nil, usagef("--max-used-space %q: %v", c.String("max-used-space"), err).withHint("10GB, or a number of bytes")
		}
		b.MaxBytes = n
	}
	if keep := c.Duration("keep-duration"); keep < 0 {
		return nil, usagef("--keep-duration %s: not a time before now", keep)
	} else if c.IsSet("keep-duration") {
		b.Since = time.Now().Add(-keep)
	}
	return b, nil
}

// parseSpace reads a size on a disk.
func parseSpace(text string) (int64, error) {
	n, err := units.FromHumanSize(text)
	if err != nil || n < 0 {
		return 0, errors.New("not a size")
	}
	return n, nil
}

// cacheBuckets are where records of caches are.
func cacheBuckets() []string { return append(cache.Buckets(), source.Buckets()...) }

// caches removes what is meant of the build cache.
func (p pruning) caches(ctx context.Context) (store.Dropped, error) {
	switch {
	case p.bound != nil:
		return p.store.Trim(ctx, cacheBuckets(), *p.bound)
	case p.all && len(p.filters["label"]) == 0:
		return p.store.DropCaches(ctx, cacheBuckets(), p.filters.until())
	}
	return store.Dropped{}, nil
}

// maxUsedSpace is the variable with the bound that the build cache is kept to after each build.
const maxUsedSpace = "CAIRN_MAX_USED_SPACE"

// autoBound reads it; nil if it is not set.
func (in invocation) autoBound() (*store.Bound, error) {
	text := in.env[maxUsedSpace]
	if text == "" {
		return nil, nil
	}
	n, err := parseSpace(text)
	if err != nil {
		return nil, usagef("%s=%q: %v", maxUsedSpace, text, err).withHint("10GB, or a number of bytes")
	}
	return &store.Bound{MaxBytes: n}, nil
}

// trim keeps the build cache to a bound when a build is over. While others use the store it is left to them.
func (e *engine) trim(ctx context.Context, b *store.Bound) error {
	if b == nil {
		return nil
	}
	if err := e.rung.Close(); err != nil {
		return err
	}
	_, err := e.store.Trim(ctx, cacheBuckets(), *b)
	if errors.Is(err, store.ErrBusy) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keeping the build cache to %s of %d bytes: %w", maxUsedSpace, b.MaxBytes, err)
	}
	return nil
}
