package source

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// GitURL is a git repository and what of it is meant.
type GitURL struct {
	// Remote is what git is given: the URL without query and fragment. It may contain a password.
	Remote string
	// Ref is a branch, a tag, a full name below refs/ or a commit; "" is the default branch.
	Ref string
	// Commit is a commit, or the beginning of one, that Ref must turn out to be.
	Commit string
	// Subdir is slash-separated, relative and clean; "" is everything.
	Subdir string
	// KeepGitDir and Submodules are nil where the URL does not say.
	KeepGitDir, Submodules *bool
	// CommitTime gives every file the time of the commit.
	CommitTime bool
	// FetchByCommit takes Commit, which is then a whole one, without asking the remote what Ref is.
	FetchByCommit bool
}

// maxGitURL bounds a git repository's URL, in bytes; no path is longer either.
const maxGitURL = 8192

// scpSyntax is user@host:path of ssh, with BuildKit's query and fragment.
var scpSyntax = regexp.MustCompile(`^([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):([^?#]*)(?:\?([^#]*))?(?:#(.*))?$`)

// ParseGitURL reads a git repository's URL by BuildKit's rules (docs of build contexts, "Git repositories"): ssh:// and git://
// URLs, http(s) ones whose path ends in ".git", user@host:path, and host-less "github.com/owner/name", which may as well be a
// path. ok says whether it is one of these; the error is for what is wrong with one that is.
func ParseGitURL(s string) (u *GitURL, ok bool, err error) {
	var query url.Values
	var fragment string
	short := strings.HasPrefix(s, "github.com/")
	switch {
	case strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		return nil, false, nil
	case short, strings.Contains(s, "://"):
		if short {
			s = "https://" + s
		}
		p, perr := url.Parse(s)
		if perr != nil {
			return nil, false, nil
		}
		switch p.Scheme {
		case "ssh", "git":
		case "http", "https":
			if !short && !strings.HasSuffix(p.Path, ".git") {
				return nil, false, nil
			}
		default:
			return nil, false, nil
		}
		if len(s) > maxGitURL {
			return nil, true, fmt.Errorf("git URL %s…: it is longer than %d bytes", p.Scheme+"://"+p.Host, maxGitURL)
		}
		if query, err = url.ParseQuery(p.RawQuery); err != nil {
			return nil, true, fmt.Errorf("git URL %s: %w", redact(s), err)
		}
		fragment = p.Fragment
		p.RawQuery, p.Fragment, p.RawFragment, p.ForceQuery = "", "", "", false
		u = &GitURL{Remote: p.String()}
		err = checkHost(p.User.Username(), p.Hostname(), p.Path)
	case len(s) > maxGitURL:
		return nil, false, nil
	default:
		m := scpSyntax.FindStringSubmatch(s)
		if m == nil {
			return nil, false, nil
		}
		if query, err = url.ParseQuery(m[4]); err != nil {
			return nil, true, fmt.Errorf("git URL %s: %w", redact(s), err)
		}
		fragment = m[5]
		u = &GitURL{Remote: m[1] + "@" + m[2] + ":" + m[3]}
		err = checkHost(m[1], m[2], m[3])
	}
	if err == nil {
		err = u.read(fragment, query)
	}
	if err != nil {
		return nil, true, fmt.Errorf("git URL %s: %w", redact(s), err)
	}
	return u, true, nil
}

// checkHost refuses what git or ssh could take for an option (CVE-2017-1000117, CVE-2018-17456).
func checkHost(user, host, p string) error {
	switch {
	case host == "":
		return errors.New("there is no host")
	case strings.HasPrefix(user, "-"):
		return errors.New("the user begins with a dash")
	case strings.HasPrefix(host, "-"):
		return errors.New("the host begins with a dash")
	case strings.HasPrefix(strings.TrimLeft(p, "/"), "-"):
		return errors.New("the path begins with a dash")
	case hasControl(user), hasControl(host), hasControl(p):
		return errors.New("there are control characters in it")
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// read takes in "#ref:subdir" and the query.
func (u *GitURL) read(fragment string, query url.Values) error {
	ref, subdir, _ := strings.Cut(fragment, ":")
	u.Ref, u.Subdir = ref, cleanSubdir(subdir)
	var tag, branch string
	for key, values := range query {
		if len(values) > 1 {
			return fmt.Errorf("%q is given more than once", key)
		}
		if err := u.set(key, values[0], &tag, &branch); err != nil {
			return err
		}
	}
	if tag != "" && branch != "" {
		return errors.New("tag and branch exclude each other")
	}
	for prefix, name := range map[string]string{"refs/tags/": tag, "refs/heads/": branch} {
		if name == "" {
			continue
		}
		if err := merge(&u.Ref, prefix+strings.TrimPrefix(name, prefix), "ref"); err != nil {
			return err
		}
	}
	return u.check()
}

func (u *GitURL) set(key, value string, tag, branch *string) (err error) {
	flag := func() (*bool, error) {
		if value == "" {
			yes := true
			return &yes, nil
		}
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("%s=%s is neither true nor false", key, value)
		}
		return &b, nil
	}
	switch key {
	case "submodules":
		u.Submodules, err = flag()
		return err
	case "keep-git-dir":
		u.KeepGitDir, err = flag()
		return err
	case "fetch-by-commit":
		b, err := flag()
		u.FetchByCommit = err == nil && *b
		return err
	}
	if value == "" {
		return fmt.Errorf("%q has no value", key)
	}
	switch key {
	case "ref":
		return merge(&u.Ref, value, "ref")
	case "tag":
		*tag = value
	case "branch":
		*branch = value
	case "subdir":
		return merge(&u.Subdir, cleanSubdir(value), "subdir")
	case "commit", "checksum":
		return merge(&u.Commit, value, "commit")
	case "mtime":
		if value != "checkout" && value != "commit" {
			return fmt.Errorf("mtime=%s is neither checkout nor commit", value)
		}
		u.CommitTime = value == "commit"
	default:
		return fmt.Errorf("unknown parameter %q", key)
	}
	return nil
}

// merge sets a field that two parts of the URL may name, if they agree.
func merge(field *string, value, what string) error {
	if *field != "" && *field != value {
		return fmt.Errorf("%s is both %q and %q", what, *field, value)
	}
	*field = value
	return nil
}

func cleanSubdir(s string) string { return strings.TrimPrefix(path.Join("/", s), "/") }

var (
	hexSyntax = regexp.MustCompile(`^[0-9a-fA-F]+$`)
	badRef    = regexp.MustCompile(`[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|^/|/$|\.$|^-`)
)

// isCommit reports whether s is a whole commit id, SHA-1 or SHA-256.
func isCommit(s string) bool { return (len(s) == 40 || len(s) == 64) && hexSyntax.MatchString(s) }

// check refuses refs that git would refuse (git-check-ref-format) or take for something else.
func (u *GitURL) check() error {
	if badRef.MatchString(u.Ref) {
		return fmt.Errorf("%q cannot be a ref", u.Ref)
	}
	if u.Commit != "" && !hexSyntax.MatchString(u.Commit) {
		return fmt.Errorf("%q is not the hexadecimal id of a commit", u.Commit)
	}
	if u.FetchByCommit && !isCommit(u.Ref) && !isCommit(u.Commit) {
		return errors.New("fetch-by-commit needs a whole commit id")
	}
	if hasControl(u.Subdir) || !utf8.ValidString(u.Subdir) {
		return fmt.Errorf("%q cannot be a subdirectory", u.Subdir)
	}
	return nil
}

// redact hides a URL's password; what cannot be read as a URL is cut at its user.
func redact(s string) string {
	if u, err := url.Parse(s); err == nil {
		if _, has := u.User.Password(); has {
			u.User = url.UserPassword("xxxxx", "xxxxx")
		} else if u.User != nil && (u.Scheme == "http" || u.Scheme == "https") {
			u.User = url.User("xxxxx") // a token alone
		}
		return u.String()
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		if i := strings.LastIndex(rest, "@"); i >= 0 {
			return scheme + "://xxxxx@" + rest[i+1:]
		}
	}
	return s
}
