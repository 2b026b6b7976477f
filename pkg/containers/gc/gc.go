// Package gc removes old images in the background:
//
//	err := gc.Start(ctx, gc.Interval(time.Hour), gc.MaxAge(7*24*time.Hour), gc.Reference("app/*"))
package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairn-build/cairn/pkg/containers"
)

// The values where no option says otherwise.
const (
	DefaultInterval = 30 * time.Minute
	DefaultMaxAge   = 24 * time.Hour
)

// Option changes what Start does.
type Option func(*config) error

type config struct {
	interval, maxAge time.Duration
	reference        string
	filter           containers.Filter
	client           *containers.Client
	report           func(error)
}

// Interval is the time between two rounds; the first is one interval after the start.
func Interval(d time.Duration) Option {
	return func(c *config) error {
		if d <= 0 {
			return fmt.Errorf("interval %v is not positive", d)
		}
		c.interval = d
		return nil
	}
}

// MaxAge is the age above which an image is removed.
func MaxAge(d time.Duration) Option {
	return func(c *config) error {
		if d < 0 {
			return fmt.Errorf("age %v is negative", d)
		}
		c.maxAge = d
		return nil
	}
}

// Reference removes only images of this name, or that it matches as a pattern.
func Reference(ref string) Option {
	return func(c *config) error {
		c.reference = ref
		return nil
	}
}

// Filter removes only images that match; it may be given several times.
func Filter(key, value string) Option {
	return func(c *config) error {
		if c.filter == nil {
			c.filter = containers.Filter{}
		}
		c.filter.Add(key, value)
		return nil
	}
}

// Client has a client of the caller's do the work. The default is one of its own, closed at the end.
func Client(client *containers.Client) Option {
	return func(c *config) error {
		c.client = client
		return nil
	}
}

// OnError is told what goes wrong in a round; the next round comes all the same. The default drops it.
func OnError(f func(error)) Option {
	return func(c *config) error {
		c.report = f
		return nil
	}
}

// Start begins to remove images, until ctx ends. It returns at once.
func Start(ctx context.Context, options ...Option) error {
	c := &config{interval: DefaultInterval, maxAge: DefaultMaxAge, report: func(error) {}}
	for _, opt := range options {
		if err := opt(c); err != nil {
			return fmt.Errorf("starting the removal of images: %w", err)
		}
	}
	own := c.client == nil
	if own {
		client, err := containers.New()
		if err != nil {
			return fmt.Errorf("starting the removal of images: %w", err)
		}
		c.client = client
	}
	go func() {
		if own {
			defer c.close()
		}
		c.loop(ctx)
	}()
	return nil
}

func (c *config) loop(ctx context.Context) {
	tick := time.NewTicker(c.interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.round(ctx); err != nil && !errors.Is(err, context.Canceled) {
			c.report(err)
		}
	}
}

func (c *config) round(ctx context.Context) error {
	if c.filter == nil {
		return c.client.Clean(ctx, c.maxAge, c.reference)
	}
	if c.reference != "" {
		c.filter.Add("reference", c.reference)
	}
	return c.client.CleanFilter(ctx, c.maxAge, c.filter)
}

func (c *config) close() {
	if err := c.client.Close(); err != nil {
		c.report(err)
	}
}
