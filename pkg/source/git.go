package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// GitOptions say how repositories are fetched.
type GitOptions struct {
	// KeepGitDir keeps .git in a build context (BUILDKIT_CONTEXT_KEEP_GIT_DIR) and CommitTime gives its files the time of the
	// commit, where the URL does not say.
	KeepGitDir, CommitTime bool
	// Env is added to git's otherwise empty environment: proxies, SSH_AUTH_SOCK.
	Env []string
}

// gitRepo is a repository being fetched: metadata in dir, a checkout in work. git runs with nothing of the user's or the system's
// configuration, speaks only network protocols, and runs no hooks.
type gitRepo struct {
	bin       string
	dir, work string
	url       *GitURL
	// remote is the URL without the password that is in it.
	remote string
	env    []string
	config []string // flags of git that set its configuration
}

// OpenGit fetches a repository with the git program and opens what it has checked out as a context. Files belong to root and have
// mode 0644 or 0755. The context's Commit is what the ref stood for.
func OpenGit(ctx context.Context, u *GitURL, o ContextOptions) (_ *Context, err error) {
	bin, err := exec.LookPath("git")
	if err != nil {
		return nil, fmt.Errorf("fetching %s: the git program is needed for that: %w", redact(u.Remote), err)
	}
	tmp, remove, err := o.tempDir("git-")
	if err != nil {
		return nil, err
	}
	c := &Context{close: []func() error{remove}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("fetching %s: %w", redact(u.Remote), err), c.Close())
		}
	}()
	keep := u.KeepGitDir != nil && *u.KeepGitDir && u.Subdir == ""
	r := &gitRepo{bin: bin, dir: filepath.Join(tmp, "repo.git"), work: filepath.Join(tmp, "work"), url: u, remote: u.Remote}
	if keep {
		r.dir = filepath.Join(r.work, ".git")
	}
	r.setEnv(filepath.Join(tmp, "home"), o)
	if err := os.Mkdir(r.work, 0o755); err != nil {
		return nil, err
	}
	when, err := r.checkout(ctx, c, keep)
	if err != nil {
		return nil, err
	}
	t, err := openSubdir(r.work, u.Subdir, o.tempFile)
	if err != nil {
		return nil, err
	}
	t.normal = true
	c.Time = when
	if u.CommitTime {
		t.mtime = when
	}
	c.Tree = t
	if keep {
		submodules := u.Submodules == nil || *u.Submodules
		c.Identity = fmt.Sprintf("git %q %q %s submodules=%t", redact(u.Remote), u.Ref, c.Commit, submodules)
	}
	c.close = append(c.close, t.Close)
	return c, t.reset()
}

// setEnv makes the whole environment of git.
func (r *gitRepo) setEnv(home string, o ContextOptions) {
	r.env = append([]string{
		"PATH=" + filepath.Dir(r.bin) + ":/usr/local/bin:/usr/bin:/bin",
		"HOME=" + home, // there is nothing there
		"XDG_CONFIG_HOME=" + home,
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_ASKPASS=/bin/false",
		"GIT_ALLOW_PROTOCOL=http:https:git:ssh",
		"GIT_SSH_COMMAND=ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new",
		"GIT_LFS_SKIP_SMUDGE=1",
		"LC_ALL=C",
	}, o.Git.Env...)
	config := [][2]string{
		{"protocol.file.allow", "never"},
		{"protocol.ext.allow", "never"},
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"core.symlinks", "true"},
		{"core.protectHFS", "true"},
		{"core.protectNTFS", "true"},
		{"core.autocrlf", "false"},
		{"init.defaultBranch", "master"},
		{"advice.detachedHead", "false"},
		{"gc.auto", "0"},
		{"transfer.fsckObjects", "false"},
	}
	// Given on the command line (and not as GIT_CONFIG_COUNT in the environment) configuration reaches the git processes of submodules
	// too. What is secret stands in the environment, where it is not seen in a list of processes.
	for _, kv := range config {
		r.config = append(r.config, "-c", kv[0]+"="+kv[1])
	}
	r.setPassword()
	if h := r.authHeader(o); h != "" {
		r.env = append(r.env, "CAIRN_GIT_AUTH=Authorization: "+h)
		r.config = append(r.config, "--config-env=http."+tokenScope(r.remote)+".extraHeader=CAIRN_GIT_AUTH")
	}
}

// setPassword takes the user and the password out of an http URL, where git would write them into its configuration and show them in the arguments
// of its helpers. A credential helper gives them to git out of the environment, for this host alone.
func (r *gitRepo) setPassword() {
	u, err := url.Parse(r.url.Remote)
	if err != nil || u.User == nil || (u.Scheme != "http" && u.Scheme != "https") {
		return
	}
	password, _ := u.User.Password()
	r.env = append(r.env, "CAIRN_GIT_USER="+u.User.Username(), "CAIRN_GIT_PASSWORD="+password)
	u.User = nil
	r.remote = u.String()
	r.config = append(r.config, "-c", "credential."+u.Scheme+"://"+u.Host+".helper="+
		`!printf 'username=%s\npassword=%s\n' "$CAIRN_GIT_USER" "$CAIRN_GIT_PASSWORD"; :`)
}

// authHeader is the value of Authorization for an http remote, from the secrets that BuildKit names too; those for one host first.
func (r *gitRepo) authHeader(o ContextOptions) string {
	if o.Secret == nil || !strings.HasPrefix(r.url.Remote, "http") {
		return ""
	}
	host := strings.Split(strings.SplitN(r.url.Remote, "://", 2)[1], "/")[0]
	host = host[strings.LastIndex(host, "@")+1:]
	for _, suffix := range []string{"." + host, ""} {
		if v, ok := o.Secret("GIT_AUTH_HEADER" + suffix); ok {
			return strings.TrimSpace(string(v))
		}
		if v, ok := o.Secret("GIT_AUTH_TOKEN" + suffix); ok {
			return "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+strings.TrimSpace(string(v))))
		}
	}
	return ""
}

// tokenScope is where a token is sent: to the repository, and for github.com to its other repositories too, which may be
// submodules.
func tokenScope(remote string) string {
	for _, p := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, p) {
			return p
		}
	}
	return remote
}

// run runs git in the repository and returns its output.
func (r *gitRepo) run(ctx context.Context, args ...string) (string, error) {
	out, stderr, err := r.try(ctx, args)
	if err != nil && slices.Contains(args, shallow) && (strings.Contains(stderr, "--depth") || strings.Contains(stderr, "shallow")) {
		// A server that only serves files cannot cut the history.
		out, stderr, err = r.try(ctx, slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == shallow }))
	}
	if err == nil {
		return strings.TrimSpace(out), nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if said := r.clean(stderr); said != "" {
		return "", fmt.Errorf("git %s: %s", args[0], said)
	}
	return "", fmt.Errorf("git %s: %w", args[0], err)
}

const shallow = "--depth=1"

func (r *gitRepo) try(ctx context.Context, args []string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, r.bin, slices.Concat(r.config, []string{"--git-dir=" + r.dir, "--work-tree=" + r.work}, args)...)
	cmd.Dir, cmd.Env = r.work, r.env
	var out, errs tail
	out.max, errs.max = 16<<20, 16<<10
	cmd.Stdout, cmd.Stderr = &out, &errs
	// git has children of its own (git-remote-https, ssh): all of them end with the build.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// tail keeps the first max bytes.
type tail struct {
	bytes.Buffer
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	if room := t.max - t.Len(); room > 0 {
		t.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// clean makes git's messages fit for an error: one line with what went wrong, without the password and without the paths of the
// checkout.
func (r *gitRepo) clean(s string) string {
	s = strings.NewReplacer(r.url.Remote, redact(r.url.Remote), r.work+"/", "", r.dir, ".git").Replace(s)
	lines := strings.FieldsFunc(s, func(c rune) bool { return c == '\n' || c == '\r' })
	var errs []string
	for _, l := range lines {
		if (strings.HasPrefix(l, "fatal:") || strings.HasPrefix(l, "error:") || strings.HasPrefix(l, "remote:")) && !slices.Contains(errs, l) {
			errs = append(errs, l)
		}
	}
	if len(errs) > 0 {
		lines = errs
	}
	return strings.Join(lines, "; ")
}

// checkout fetches the commit that is wanted, puts its files into work, and returns the time of the commit.
func (r *gitRepo) checkout(ctx context.Context, c *Context, keep bool) (time.Time, error) {
	const sha1, sha256 = 40, 64 // lengths of object names
	format := sha1
	if len(r.url.Commit) == sha256 || len(r.url.Ref) == sha256 && isCommit(r.url.Ref) {
		format = sha256
	}
	if err := r.initialize(ctx, format == sha256); err != nil {
		return time.Time{}, err
	}
	ref, object, err := r.resolve(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if len(object) != format && isCommit(object) { // only the remote knew, and git does not change a repository's format
		if err := errors.Join(os.RemoveAll(r.dir), r.initialize(ctx, len(object) == sha256)); err != nil {
			return time.Time{}, err
		}
	}
	if err := r.fetch(ctx, ref, object); err != nil {
		return time.Time{}, err
	}
	if c.Commit, err = r.run(ctx, "rev-parse", "--verify", "--end-of-options", object+"^{commit}"); err != nil {
		return time.Time{}, err
	}
	if want := strings.ToLower(r.url.Commit); want != "" && !strings.HasPrefix(object, want) && !strings.HasPrefix(c.Commit, want) {
		return time.Time{}, fmt.Errorf("the ref is commit %s, expected %s", c.Commit, want)
	}
	if keep {
		err = r.checkoutKept(ctx, ref, c.Commit)
	} else {
		_, err = r.run(ctx, "checkout", "--no-overlay", "-f", c.Commit, "--", ".")
	}
	if err != nil && !r.empty(ctx, c.Commit) {
		return time.Time{}, err
	}
	if r.url.Submodules == nil || *r.url.Submodules {
		if err := r.submodules(ctx, keep); err != nil {
			return time.Time{}, err
		}
	}
	out, err := r.run(ctx, "log", "-1", "--format=%ct", "--end-of-options", c.Commit)
	if err != nil {
		return time.Time{}, err
	}
	sec, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("git log: the time of the commit: %w", err)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// empty reports whether a commit has no files, which git does not like to check out.
func (r *gitRepo) empty(ctx context.Context, commit string) bool {
	out, err := r.run(ctx, "ls-tree", commit)
	return err == nil && out == ""
}

// initialize makes an empty repository, for objects named by SHA-256 or by SHA-1.
func (r *gitRepo) initialize(ctx context.Context, sha256 bool) error {
	args := []string{"init", "-q"}
	if sha256 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := r.run(ctx, args...); err != nil {
		return err
	}
	_, err := r.run(ctx, "remote", "add", "--", "origin", r.remote)
	return err
}

// resolve finds out what the ref is at the remote: its full name and the object, a commit or a tag.
func (r *gitRepo) resolve(ctx context.Context) (ref, object string, err error) {
	switch u := r.url; {
	case isCommit(u.Ref):
		return "", strings.ToLower(u.Ref), nil
	case u.FetchByCommit:
		return fullRef(u.Ref), strings.ToLower(u.Commit), nil
	case u.Ref == "":
		return r.defaultBranch(ctx)
	}
	name := r.url.Ref
	out, err := r.run(ctx, "ls-remote", "--", "origin", name, name+"^{}")
	if err != nil {
		return "", "", err
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		if sha, ref, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && isCommit(sha) {
			found[ref] = sha
		}
	}
	// As git-checkout does, a branch is preferred to a tag of the same name.
	for _, ref := range []string{"refs/" + strings.TrimPrefix(name, "refs/"), "refs/heads/" + strings.TrimPrefix(name, "refs/heads/"),
		"refs/tags/" + strings.TrimPrefix(name, "refs/tags/")} {
		if sha := found[ref]; sha != "" {
			return ref, sha, nil
		}
	}
	return "", "", fmt.Errorf("the repository has no ref %q", name)
}

func fullRef(name string) string {
	if name == "" || strings.HasPrefix(name, "refs/") {
		return name
	}
	return "refs/heads/" + name
}

func (r *gitRepo) defaultBranch(ctx context.Context) (ref, object string, err error) {
	out, err := r.run(ctx, "ls-remote", "--symref", "--", "origin", "HEAD")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(out) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok || right != "HEAD" {
			continue
		}
		if name, isRef := strings.CutPrefix(left, "ref: "); isRef {
			ref = name
		} else if isCommit(left) {
			object = left
		}
	}
	if object == "" || badRef.MatchString(ref) {
		return "", "", errors.New("the repository has no default branch")
	}
	return ref, object, nil
}

// fetch brings the object in: by itself, or where the server does not give out what it does not advertise, by its ref or with
// everything.
func (r *gitRepo) fetch(ctx context.Context, ref, object string) error {
	if ref != "" && !r.url.FetchByCommit {
		if _, err := r.run(ctx, "fetch", "-q", shallow, "--no-tags", "--force", "--update-head-ok", "--", "origin", ref+":"+ref); err != nil {
			return err
		}
		if _, err := r.run(ctx, "cat-file", "-e", object); err == nil {
			return nil // else the ref has moved since it was resolved
		}
	}
	_, err := r.run(ctx, "fetch", "-q", shallow, "--no-tags", "--", "origin", object)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, all := r.run(ctx, "fetch", "-q", "--tags", "--force", "--", "origin", "+refs/heads/*:refs/remotes/origin/*"); all != nil {
		return err
	}
	if _, missing := r.run(ctx, "cat-file", "-e", object+"^{commit}"); missing != nil {
		return fmt.Errorf("the repository has no commit %s", object)
	}
	return nil
}

// checkoutKept checks out so that .git can be used: on the commit, with the ref it came from and the remote without its password.
func (r *gitRepo) checkoutKept(ctx context.Context, ref, commit string) error {
	if _, err := r.run(ctx, "checkout", "-q", "-f", "--detach", commit); err != nil {
		return err
	}
	if ref != "" && r.url.FetchByCommit {
		if _, err := r.run(ctx, "update-ref", ref, commit); err != nil {
			return err
		}
	}
	if clean := redact(r.remote); clean != r.remote {
		defer func() { _, _ = r.run(ctx, "remote", "set-url", "origin", clean) }()
	}
	if _, err := r.run(ctx, "reflog", "expire", "--all", "--expire=now"); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(r.dir, "FETCH_HEAD")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// submodules fetches them as BuildKit does. Where .git is not kept, neither are the files of that name that lead to it.
func (r *gitRepo) submodules(ctx context.Context, keep bool) error {
	root, err := os.OpenRoot(r.work)
	if err != nil {
		return err
	}
	defer root.Close()
	if st, err := root.Lstat(".gitmodules"); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	if _, err := r.run(ctx, "submodule", "update", "--init", "--recursive", shallow); err != nil {
		return err
	}
	if keep {
		return nil
	}
	return fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || path.Base(p) != ".git" || d.IsDir() {
			return err
		}
		return root.Remove(p)
	})
}

// openSubdir opens a directory of a checkout. Each component must be a directory itself: a symlink could lead anywhere
// (CVE-2026-44517).
func openSubdir(work, subdir string, temp func() (*os.File, error)) (*dirTree, error) {
	t, err := newDirTree(work, temp)
	if err != nil || subdir == "" {
		return t, err
	}
	f, err := t.open(subdir, unix.O_RDONLY|unix.O_DIRECTORY)
	_ = t.root.Close()
	if err != nil {
		return nil, fmt.Errorf("subdirectory %q: %w", subdir, errors.Unwrap(err))
	}
	return dirTreeOf(filepath.Join(work, filepath.FromSlash(subdir)), f, temp)
}
