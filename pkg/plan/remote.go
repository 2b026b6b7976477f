package plan

import (
	"net/url"
	"strings"
)

// isHTTP reports whether a source is a URL that is fetched as one file.
func isHTTP(src string) bool {
	return (strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")) && !isGit(src)
}

// isGit reports whether a source is a git repository, by the rules of BuildKit's dfgitutil: ssh and git URLs, http ones whose path ends in
// ".git", and scp's user@host:path. What is in such a URL is pkg/source's to say; "github.com/owner/name" looks like a path and is one.
func isGit(src string) bool {
	if strings.HasPrefix(src, "./") || strings.HasPrefix(src, "../") || strings.HasPrefix(src, "github.com/") {
		return false
	}
	if scheme, _, ok := strings.Cut(src, "://"); ok && scheme != "" && onlyRunes(scheme, "") {
		u, err := url.Parse(src)
		if err != nil {
			return false
		}
		switch u.Scheme {
		case "ssh", "git":
			return true
		case "http", "https":
			return strings.HasSuffix(u.Path, ".git")
		}
		return false
	}
	user, rest, hasUser := strings.Cut(src, "@")
	host, _, hasPath := strings.Cut(rest, ":")
	return hasUser && hasPath && user != "" && host != "" && onlyRunes(user, "-_") && onlyRunes(host, "-.")
}

// onlyRunes reports whether s consists of ASCII letters, digits and the runes of others.
func onlyRunes(s, others string) bool {
	for _, r := range s {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(others, r)) {
			return false
		}
	}
	return true
}
