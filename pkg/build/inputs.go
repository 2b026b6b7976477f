package build

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/solve"
	"github.com/cairn-build/cairn/pkg/source"
)

// inputs is what a build reads of its user: the main context with the Dockerfile, named contexts, remote files. Each is opened once, when it is
// first needed, and lives until the build ends.
type inputs struct {
	main    *source.Context
	named   map[string]plan.Context
	options source.ContextOptions
	cache   *cache.Cache

	mu     sync.Mutex
	opened map[string]*opening
}

// opening is something that is being opened, or was.
type opening struct {
	once sync.Once
	ctx  *source.Context
	name string // of the one file of an http source
	err  error
}

// openInputs opens the main context and reads the Dockerfile.
func openInputs(ctx context.Context, o Options) (_ *inputs, err error) {
	v := progress.Start(ctx, "context", "[internal] load build definition")
	defer func() { v.Done(err) }()
	in := &inputs{cache: cache.New(o.Parts.Store), named: map[string]plan.Context{}, opened: map[string]*opening{}}
	for name, url := range o.Input.Named {
		in.named[name] = plan.Context{Name: name, URL: url}
	}
	in.options = contextOptions(in.cache, o)
	if in.main, err = source.Open(ctx, o.Input.Context, o.Input.Dockerfile, in.options); err != nil {
		return nil, err
	}
	return in, nil
}

// contextOptions say how contexts and remote files are read.
func contextOptions(c *cache.Cache, o Options) source.ContextOptions {
	args := o.Args.BuildArgs
	co := source.ContextOptions{
		Stdin: o.Input.Stdin, TempDir: o.Parts.Store.TempDir, Store: o.Parts.Store,
		Digests: func(root string) (source.Digests, error) { return c.Files(root) },
		Secret: func(id string) ([]byte, bool) {
			s, ok := o.Run.Secrets[id]
			return s.Reveal(), ok
		},
		Git: source.GitOptions{CommitTime: args["SOURCE_DATE_EPOCH"] != ""},
	}
	// Anything that is no false value keeps it, as in BuildKit.
	if v, ok := args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]; ok {
		keep, err := strconv.ParseBool(v)
		co.Git.KeepGitDir = keep || err != nil
	}
	for name, value := range args {
		if strings.HasSuffix(strings.ToLower(name), "_proxy") {
			co.Git.Env = append(co.Git.Env, name+"="+value)
		}
	}
	if sock, ok := o.Run.SSH["default"]; ok {
		co.Git.Env = append(co.Git.Env, "SSH_AUTH_SOCK="+sock)
	}
	return co
}

// close closes what was opened.
func (in *inputs) close() error {
	errs := []error{in.main.Close()}
	for _, op := range in.opened {
		if op.ctx != nil {
			errs = append(errs, op.ctx.Close())
		}
	}
	return errors.Join(errs...)
}

// open opens the thing of a key once.
func (in *inputs) open(key string, how func() (*source.Context, string, error)) (*opening, error) {
	in.mu.Lock()
	op, ok := in.opened[key]
	if !ok {
		op = &opening{}
		in.opened[key] = op
	}
	in.mu.Unlock()
	op.once.Do(func() { op.ctx, op.name, op.err = how() })
	return op, op.err
}

// context opens a named context.
func (in *inputs) context(ctx context.Context, c plan.Context) (*source.Context, error) {
	if c.Name == "" {
		return in.main, nil
	}
	op, err := in.open("context\x00"+c.URL, func() (*source.Context, string, error) {
		s, err := source.OpenNamed(ctx, c.URL, in.options)
		return s, "", err
	})
	if err != nil {
		return nil, fmt.Errorf("opening build context %s: %w", c.Name, err)
	}
	return op.ctx, nil
}

// remote opens what one URL of an ADD names.
func (in *inputs) remote(ctx context.Context, r plan.Remote) (*opening, error) {
	keep := "default"
	if r.KeepGitDir != nil {
		keep = fmt.Sprint(*r.KeepGitDir)
	}
	return in.open("remote\x00"+r.URL+"\x00"+r.Checksum+"\x00"+keep, func() (*source.Context, string, error) {
		v := progress.Start(ctx, "remote "+r.URL+" "+r.Checksum+" "+keep, "fetching "+r.URL)
		c, name, err := source.OpenRemote(ctx, r, in.options)
		v.Done(err)
		return c, name, err
	})
}

// Context implements solve.Contexts.
func (in *inputs) Context(ctx context.Context, c plan.Context) (layer.Tree, error) {
	s, err := in.context(ctx, c)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Remote implements solve.Contexts.
func (in *inputs) Remote(ctx context.Context, r plan.Remote) (solve.RemoteTree, error) {
	op, err := in.remote(ctx, r)
	if err != nil {
		return solve.RemoteTree{}, err
	}
	return solve.RemoteTree{Tree: op.ctx, Name: op.name, Identity: op.ctx.Identity}, nil
}

// epochOf is the time of a source, for a SOURCE_DATE_EPOCH that names one; nil where it has none.
func (in *inputs) epochOf(ctx context.Context, src plan.EpochSource) (*int64, error) {
	var s *source.Context
	if src.Context != nil {
		var err error
		if s, err = in.context(ctx, *src.Context); err != nil {
			return nil, err
		}
	} else {
		op, err := in.remote(ctx, *src.Remote)
		if err != nil {
			return nil, err
		}
		s = op.ctx
	}
	if s.Time.IsZero() {
		return nil, nil
	}
	t := s.Time.Unix()
	return &t, nil
}
