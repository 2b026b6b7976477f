package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cairn-build/cairn/pkg/hint"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"golang.org/x/sys/unix"
)

const (
	defaultDockerfile = "Dockerfile"
	ignoreFile        = ".dockerignore"
	// maxDockerfile bounds a Dockerfile, in bytes.
	maxDockerfile = 16 << 20
)

// Context is an open build context: a tree of files with .dockerignore applied, that cannot be left through symlinks.
type Context struct {
	layer.Tree
	// Dockerfile is what was found of it in the context, when asked for; DockerfileName is its name there.
	Dockerfile     []byte
	DockerfileName string
	// Commit is the commit that a git URL stood for, in hexadecimal.
	Commit string
	// Identity stands for the content where one fetch has not the bytes of the next though they mean the same: a repository with its
	// .git. "" everywhere else.
	Identity string
	// Time is when the context was made, where it says: of the commit, or of the newest file of an archive. It is what
	// SOURCE_DATE_EPOCH=context means.
	Time time.Time

	close []func() error
}

// Close removes what was made temporarily.
func (c *Context) Close() error {
	var errs []error
	for i := len(c.close) - 1; i >= 0; i-- {
		errs = append(errs, c.close[i]())
	}
	c.close = nil
	return errors.Join(errs...)
}

// Ignored reports whether an ignore file hides a name that is there, and which.
func (c *Context) Ignored(name string) (by string, ok bool) {
	if ig, yes := c.Tree.(interface {
		Ignored(string) (string, bool)
	}); yes {
		return ig.Ignored(name)
	}
	return "", false
}

// IgnorePatterns are the lines of the ignore file in force, for the check that warns of COPYs of ignored files.
func (c *Context) IgnorePatterns() []string {
	if t, ok := c.Tree.(*dirTree); ok && t.ignore != nil {
		return t.ignore.lines
	}
	return nil
}

// ContextOptions say how contexts are opened.
type ContextOptions struct {
	// Stdin is what "-" reads.
	Stdin io.Reader
	// Digests opens what is remembered of the files below a directory, named by its absolute path; nil remembers nothing.
	Digests func(root string) (Digests, error)
	// TempDir makes a directory for what is fetched (store.TempDir); nil makes it where the system wants. It is removed with
	// the context.
	TempDir func(pattern string) (string, error)
	// Store keeps what is fetched by http, so that it is fetched again only when it has changed; nil keeps nothing. What is known of the files of a
	// context lies in its file system while the context is open.
	Store *store.Store
	// Limits bound what an archive unpacks to.
	Limits layer.Limits
	// Secret returns a secret by its id, for HTTP_AUTH_HEADER_host, HTTP_AUTH_TOKEN_host, GIT_AUTH_HEADER and GIT_AUTH_TOKEN,
	// and the latter two with ".host"; nil has none.
	Secret func(id string) ([]byte, bool)
	HTTP   HTTPOptions
	Git    GitOptions
}

// OpenDir opens a directory with its .dockerignore applied, as a context whose Dockerfile is not looked for.
func OpenDir(ctx context.Context, dir string, o ContextOptions) (*Context, error) {
	t, err := o.openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	if err := t.readIgnore(); err != nil {
		_ = t.Close()
		return nil, err
	}
	return &Context{Tree: t, close: []func() error{t.Close}}, nil
}

// openDir opens a directory as a tree of which nothing is ignored yet.
func (o ContextOptions) openDir(dir string) (*dirTree, error) {
	t, err := newDirTree(dir, o.tempFile)
	if err != nil {
		return nil, err
	}
	if o.Digests != nil {
		if t.digests, err = o.Digests(t.path); err != nil {
			_ = t.root.Close()
			return nil, err
		}
	}
	return t, nil
}

// openMainDir opens the main context with its Dockerfile. dockerfile is as given with -f: a path of this machine, "-" for
// standard input, or "" for the default in the context.
func openMainDir(dir, dockerfile string, o ContextOptions) (_ *Context, err error) {
	t, err := o.openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	c := &Context{Tree: t, close: []func() error{t.Close}}
	switch dockerfile {
	case "":
		if c.Dockerfile, c.DockerfileName, err = findDockerfile(t); err != nil {
			return nil, err
		}
		err = t.readIgnore(c.DockerfileName + ignoreFile)
	case "-":
		if c.Dockerfile, err = readStdin(o.Stdin); err != nil {
			return nil, err
		}
		c.DockerfileName = defaultDockerfile
		err = t.readIgnore()
	default:
		// What the user names is read wherever it is, through symlinks too; what lies beside it has the same trust.
		var real string
		if c.Dockerfile, real, err = readNamed(dockerfile); err != nil {
			return nil, err
		}
		c.DockerfileName = filepath.Base(real)
		if t.ignore, err = ignoreBeside(real); err == nil && t.ignore == nil {
			err = t.readIgnore()
		}
	}
	return c, err
}

// findDockerfile reads the default Dockerfile of a context, whatever its ignore file says.
func findDockerfile(t layer.Tree) ([]byte, string, error) {
	for _, name := range []string{defaultDockerfile, strings.ToLower(defaultDockerfile)} {
		data, err := readIn(t, name, maxDockerfile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", fmt.Errorf("reading the Dockerfile: %w", err)
		}
		return data, name, nil
	}
	return nil, "", fmt.Errorf("reading the Dockerfile: the build context has no file %q: %w", defaultDockerfile, fs.ErrNotExist)
}

// readIn reads a small regular file of a tree, through symlinks that stay in it.
func readIn(t layer.Tree, name string, limit int64) ([]byte, error) {
	p, err := layer.Resolve(t, path.Clean(name))
	var e layer.Entry
	if err == nil {
		e, err = t.Lstat(p)
	}
	if err != nil {
		return nil, explainLink(t, path.Clean(name), err)
	}
	if e.Type != layer.File {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	if e.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed", name, e.Size, limit)
	}
	f, err := t.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// explainLink says of a file that could not be found whether it is a link that leads nowhere. That is not the error of a file that is not there:
// whoever made the link means something by it.
func explainLink(t layer.Tree, name string, err error) error {
	e, lerr := t.Lstat(name)
	if lerr != nil || e.Type != layer.Symlink {
		return err
	}
	to := path.Join(path.Dir(name), e.Linkname)
	switch {
	case path.IsAbs(e.Linkname) || to == ".." || strings.HasPrefix(to, "../"):
		return hint.With(fmt.Errorf("%s is a link to %s, which leads out of the build context", name, e.Linkname),
			"name a Dockerfile that is elsewhere with --file")
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is a link to %s, which is not there", name, e.Linkname)
	}
	return err
}

// readIgnore applies the first of the ignore files that is there; .dockerignore comes last. It must be a regular file: a link
// to something outside is not followed.
func (t *dirTree) readIgnore(first ...string) error {
	for _, name := range append(first, ignoreFile) {
		data, err := readIn(t, name, maxIgnoreFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the ignore file: %w", err)
		}
		ig, err := ParseIgnore(data, name)
		if err != nil {
			return err
		}
		t.ignore = ig
		return t.reset()
	}
	return nil
}

// readNamed reads a Dockerfile by a path the user gave and returns where it is.
func readNamed(name string) ([]byte, string, error) {
	data, err := readRegular(name, maxDockerfile)
	if errors.Is(err, fs.ErrNotExist) && filepath.Base(name) == defaultDockerfile {
		lower := filepath.Join(filepath.Dir(name), strings.ToLower(defaultDockerfile))
		if data, lerr := readRegular(lower, maxDockerfile); lerr == nil {
			return data, lower, nil
		}
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the Dockerfile: %w", err)
	}
	return data, name, nil
}

// ignoreBeside reads NAME.dockerignore beside a Dockerfile; nil if there is none.
func ignoreBeside(dockerfile string) (*Ignore, error) {
	name := dockerfile + ignoreFile
	data, err := readRegular(name, maxIgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the ignore file: %w", err)
	}
	return ParseIgnore(data, filepath.Base(name))
}

// readRegular reads a small file of this machine that the user named. A pipe is read too (-f <(...)), to its end.
func readRegular(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, fmt.Errorf("%s is a directory", name)
	}
	return readLimited(f, name, limit)
}

func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: more than the %d bytes allowed", name, limit)
	}
	return data, nil
}

func readStdin(r io.Reader) ([]byte, error) {
	if r == nil {
		return nil, errors.New("reading the Dockerfile: there is no standard input")
	}
	return readLimited(r, "the Dockerfile from standard input", maxDockerfile)
}
