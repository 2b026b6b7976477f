package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
)

// Open opens the main build context and reads its Dockerfile. where is a directory, "-" for standard input (a tar archive in
// any compression, or a Dockerfile alone), or a git or http URL. dockerfile is as given with -f: "" is the context's own; "-"
// is standard input; otherwise it is a path of this machine when the context is a directory, and a name in the context when it
// is not.
func Open(ctx context.Context, where, dockerfile string, o ContextOptions) (*Context, error) {
	if where == "-" {
		return openStdin(ctx, dockerfile, o)
	}
	if st, err := os.Stat(where); err == nil && st.IsDir() {
		return openMainDir(where, dockerfile, o)
	}
	c, isFile, err := openURL(ctx, where, o)
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	if isFile && dockerfile != "-" { // whatever -f calls it
		dockerfile = contextFile
	}
	if err := c.readDockerfile(dockerfile, o); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// OpenNamed opens a named build context: a directory, with its .dockerignore applied, or a git or http URL.
func OpenNamed(ctx context.Context, where string, o ContextOptions) (*Context, error) {
	where = strings.TrimPrefix(where, "local:")
	if st, err := os.Stat(where); err == nil && st.IsDir() {
		return OpenDir(ctx, where, o)
	}
	c, _, err := openURL(ctx, where, o)
	return c, err
}

// CheckNamed says what is wrong with where a named build context is to be, fetching nothing: OpenNamed's, or a docker-image:// or oci-layout:// URL.
func CheckNamed(where string) error {
	if strings.HasPrefix(where, imageScheme) || strings.HasPrefix(where, layoutScheme) ||
		strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://") {
		return nil
	}
	dir := strings.TrimPrefix(where, "local:")
	st, err := os.Stat(dir)
	if err == nil && st.IsDir() {
		return nil
	}
	if _, ok, gerr := ParseGitURL(dir); ok || gerr != nil {
		return gerr
	}
	if err != nil {
		return err
	}
	return &fs.PathError{Op: "open", Path: where, Err: errors.New("not a directory")}
}

// OpenRemote fetches what one URL of an ADD names. name is the only file of the tree, or "" for a git repository, whose whole
// tree is meant.
func OpenRemote(ctx context.Context, r plan.Remote, o ContextOptions) (c *Context, name string, err error) {
	if !r.Git {
		return openHTTPFile(ctx, r, o)
	}
	u, err := gitURL(r)
	if err != nil {
		return nil, "", err
	}
	c, err = OpenGit(ctx, u, o)
	return c, "", err
}

// CheckRemote says what is wrong with the URL and options of an ADD, fetching nothing.
func CheckRemote(r plan.Remote) error {
	if !r.Git {
		return nil
	}
	_, err := gitURL(r)
	return err
}

// gitURL is the repository that an ADD names, with its options.
func gitURL(r plan.Remote) (*GitURL, error) {
	u, ok, err := ParseGitURL(r.URL)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s is no URL of a git repository", redact(r.URL))
	}
	if r.KeepGitDir != nil {
		if u.KeepGitDir != nil && *u.KeepGitDir != *r.KeepGitDir {
			return nil, fmt.Errorf("git URL %s: --keep-git-dir and the URL's keep-git-dir differ", redact(r.URL))
		}
		u.KeepGitDir = r.KeepGitDir
	}
	if r.Checksum != "" {
		if err := merge(&u.Commit, r.Checksum, "commit"); err != nil {
			return nil, fmt.Errorf("git URL %s: %w", redact(r.URL), err)
		}
		if err := u.check(); err != nil {
			return nil, fmt.Errorf("git URL %s: %w", redact(r.URL), err)
		}
	}
	return u, nil
}

// contextFile is the name of a file that is a whole context.
const contextFile = "context"

// openURL opens a context that is not local. isFile says that it is a single file.
func openURL(ctx context.Context, where string, o ContextOptions) (c *Context, isFile bool, err error) {
	u, ok, err := ParseGitURL(where)
	if err != nil {
		return nil, false, err
	}
	if ok {
		if o.Git.KeepGitDir && u.KeepGitDir == nil {
			u.KeepGitDir = &o.Git.KeepGitDir
		}
		u.CommitTime = u.CommitTime || o.Git.CommitTime
		c, err = OpenGit(ctx, u, o)
		return c, false, err
	}
	if strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://") {
		return openHTTPContext(ctx, where, o)
	}
	if _, err := os.Stat(where); err != nil {
		return nil, false, err
	}
	return nil, false, &fs.PathError{Op: "open", Path: where, Err: errors.New("not a directory")}
}

// readDockerfile finds the Dockerfile of a context that is not local.
func (c *Context) readDockerfile(name string, o ContextOptions) (err error) {
	switch name {
	case "":
		c.Dockerfile, c.DockerfileName, err = findDockerfile(c.Tree)
	case "-":
		c.Dockerfile, err = readStdin(o.Stdin)
		c.DockerfileName = defaultDockerfile
	default:
		c.DockerfileName = strings.TrimPrefix(path.Clean("/"+name), "/")
		if c.Dockerfile, err = readIn(c.Tree, c.DockerfileName, maxDockerfile); err != nil {
			err = fmt.Errorf("reading the Dockerfile: %w", err)
		}
	}
	return err
}

// openStdin opens standard input as a context.
func openStdin(ctx context.Context, dockerfile string, o ContextOptions) (*Context, error) {
	if o.Stdin == nil {
		return nil, errors.New("opening the build context: there is no standard input")
	}
	if dockerfile == "-" {
		return nil, errors.New("standard input cannot be both the build context and the Dockerfile")
	}
	r := bufio.NewReaderSize(o.Stdin, headSize)
	head, err := r.Peek(headSize)
	if err != nil && len(head) == 0 {
		return nil, fmt.Errorf("reading the build context from standard input: %w", err)
	}
	if !looksLikeArchive(head) {
		if dockerfile != "" {
			return nil, fmt.Errorf("standard input is a Dockerfile, but -f names another: %s", dockerfile)
		}
		data, err := readStdin(r)
		if err != nil {
			return nil, err
		}
		return &Context{Tree: fileTree{}, Dockerfile: data, DockerfileName: defaultDockerfile}, nil
	}
	c, err := OpenTar(ctx, r, o)
	if err != nil {
		return nil, fmt.Errorf("reading the build context from standard input: %w", err)
	}
	if err := c.readDockerfile(dockerfile, o); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

var _ layer.Tree = (*Context)(nil)
