package main

import (
	"path/filepath"
	"slices"
	"strings"
)

// environment is the process environment as it was at the start. No other file of the program, and no package below it, reads
// environment variables.
//
//	XDG_DATA_HOME, HOME        where state lives, without --root
//	DOCKER_CONFIG, HOME        the folder of Docker's config.json: credentials and credential helpers
//	REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR   the auth.json of podman and skopeo
//	SOURCE_DATE_EPOCH          the time of the image and the newest time of its files; also a build argument
//	CAIRN_MAX_USED_SPACE       the size that a build keeps the build cache to when it is over
//	BUILDKIT_PROGRESS          --progress where the flag is not given
//	NO_COLOR                   no colours (https://no-color.org)
//	HTTP_PROXY, HTTPS_PROXY, FTP_PROXY, NO_PROXY, ALL_PROXY and the same in lower case: for cairn itself and for RUN
//	TERM                       what the terminal can do
//	PATH                       where git and credential helpers are found
//	SSH_AUTH_SOCK              the agent behind --ssh default
type environment map[string]string

func newEnvironment(environ []string) environment {
	env := make(environment, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

// dataRoot is where state lives when --root is not given: $XDG_DATA_HOME/cairn, or $HOME/.local/share/cairn. The XDG base
// directory specification has relative values ignored.
func (e environment) dataRoot() (string, error) {
	if dir := e["XDG_DATA_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "cairn"), nil
	}
	if home := e["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "cairn"), nil
	}
	return "", usagef("no place to keep state: neither XDG_DATA_HOME nor HOME is set").withHint("give one with --root DIR")
}

// proxies are the proxy variables that are set, as build arguments: RUN sees them, and neither history nor cache keys do.
func (e environment) proxies() map[string]string {
	found := map[string]string{}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"} {
		for _, n := range []string{name, strings.ToLower(name)} {
			if v := e[n]; v != "" {
				found[n] = v
			}
		}
	}
	return found
}

// list is the environment as another program takes it.
func (e environment) list() []string {
	out := make([]string, 0, len(e))
	for k, v := range e {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}
