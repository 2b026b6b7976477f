package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// helperName is what a credential helper may be called: it becomes the name of a program.
var helperName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// maxAuthFile bounds a file of credentials, and what a helper says, in bytes.
const maxAuthFile = 1 << 20

// DefaultAuthFiles lists where credentials are looked for: the file of $REGISTRY_AUTH_FILE alone if that is set, else config.json in
// $DOCKER_CONFIG (or ~/.docker), then containers/auth.json in $XDG_RUNTIME_DIR and in ~/.config. Empty arguments are left out.
func DefaultAuthFiles(registryAuthFile, dockerConfig, runtimeDir, home string) []string {
	if registryAuthFile != "" {
		return []string{registryAuthFile}
	}
	var files []string
	switch {
	case dockerConfig != "":
		files = append(files, path.Join(dockerConfig, "config.json"))
	case home != "":
		files = append(files, path.Join(home, ".docker", "config.json"))
	}
	if runtimeDir != "" {
		files = append(files, path.Join(runtimeDir, "containers", "auth.json"))
	}
	if home != "" {
		files = append(files, path.Join(home, ".config", "containers", "auth.json"))
	}
	return files
}

// keychain finds credentials.
type keychain struct {
	files []string
	first authn.Keychain

	mu     sync.Mutex
	loaded bool
	parsed []authFile
	helped map[string]*authn.AuthConfig // by helper and server
}

// authFile is Docker's config.json, as far as it is about credentials, and containers-auth.json(5).
type authFile struct {
	name        string
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Auth          string `json:"auth,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// lookup returns the credentials for a repository of a registry, nil if there are none.
func (k *keychain) lookup(ctx context.Context, registry, repo string) (*authn.AuthConfig, error) {
	if k.first != nil {
		r, err := name.NewRegistry(registry)
		if err != nil {
			return nil, err
		}
		a, err := authn.Resolve(ctx, k.first, r.Repo(repo))
		if err != nil {
			return nil, fmt.Errorf("looking up credentials: %w", err)
		}
		if a != authn.Anonymous {
			return authn.Authorization(ctx, a)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.loaded {
		if err := k.load(); err != nil {
			return nil, err
		}
	}
	for _, f := range k.parsed {
		a, err := k.in(ctx, f, registry, repo)
		if err != nil {
			return nil, fmt.Errorf("looking up credentials (%s): %w", f.name, err)
		}
		if a != nil {
			return a, nil
		}
	}
	return nil, nil
}

func (k *keychain) load() error {
	k.helped = map[string]*authn.AuthConfig{}
	for _, file := range k.files {
		data, err := readLimited(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading credentials: %w", err)
		}
		f := authFile{name: file}
		// The decoder's message may quote what it read.
		if len(bytes.TrimSpace(data)) > 0 && json.Unmarshal(data, &f) != nil {
			return fmt.Errorf("reading credentials: %s is not JSON in the form of Docker's config.json", file)
		}
		k.parsed = append(k.parsed, f)
	}
	k.loaded = true
	return nil
}

func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAuthFile+1))
	if err == nil && len(data) > maxAuthFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxAuthFile)
	}
	return data, err
}

// in looks into one file: the registry's own helper, then the default helper, then the entries from the longest path to the bare host.
func (k *keychain) in(ctx context.Context, f authFile, registry, repo string) (*authn.AuthConfig, error) {
	server := registry
	if registry == dockerHub {
		server = authn.DefaultAuthKey
	}
	for _, key := range hostKeys(registry) {
		if helper, ok := f.CredHelpers[key]; ok {
			return k.helper(ctx, helper, server)
		}
	}
	if f.CredsStore != "" {
		if a, err := k.helper(ctx, f.CredsStore, server); a != nil || err != nil {
			return a, err
		}
	}
	for scope := registry + "/" + repo; scope != registry; scope = path.Dir(scope) {
		if e, ok := f.Auths[scope]; ok {
			return e.config()
		}
	}
	entries := map[string]authEntry{}
	for key, e := range f.Auths {
		entries[bareHost(key)] = e
	}
	for _, key := range hostKeys(registry) {
		if e, ok := f.Auths[key]; ok {
			return e.config()
		}
		if e, ok := entries[key]; ok {
			return e.config()
		}
	}
	return nil, nil
}

// hostKeys are the names a registry goes by in files.
func hostKeys(registry string) []string {
	if registry == dockerHub {
		return []string{authn.DefaultAuthKey, "index.docker.io", dockerHub, hubHost}
	}
	return []string{registry}
}

// bareHost takes scheme and version off keys like "https://registry.example/v1/". What has another path stays as it is.
func bareHost(key string) string {
	_, rest, ok := strings.Cut(key, "://")
	if !ok {
		rest = key
	}
	rest = strings.TrimSuffix(rest, "/")
	rest = strings.TrimSuffix(strings.TrimSuffix(rest, "/v1"), "/v2")
	if strings.Contains(rest, "/") {
		return key
	}
	return rest
}

// config decodes an entry; nil for an empty one, which `docker login` writes beside a helper.
func (e authEntry) config() (*authn.AuthConfig, error) {
	a := &authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		raw, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			raw, err = base64.RawStdEncoding.DecodeString(e.Auth)
		}
		user, pass, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if err != nil || !ok {
			return nil, errors.New("an auth value is not the base64 form of USER:PASSWORD")
		}
		a.Username, a.Password = user, pass
	}
	if *a == (authn.AuthConfig{}) {
		return nil, nil
	}
	return a, nil
}

// helper asks docker-credential-NAME, once for each server. Nil is no credentials.
func (k *keychain) helper(ctx context.Context, helper, server string) (*authn.AuthConfig, error) {
	if !helperName.MatchString(helper) {
		return nil, fmt.Errorf("%q is no name of a credential helper", clean(helper))
	}
	key := helper + " " + server
	if a, ok := k.helped[key]; ok {
		return a, nil
	}
	// The program's own output is not repeated in errors: on stdout there may be a secret.
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.Stdin = strings.NewReader(server)
	out, err := cmd.Output()
	if err != nil {
		if credentials.IsErrCredentialsNotFoundMessage(strings.TrimSpace(string(out))) {
			k.helped[key] = nil
			return nil, nil
		}
		return nil, fmt.Errorf("asking docker-credential-%s: %w", helper, err)
	}
	var got struct{ Username, Secret string }
	if len(out) > maxAuthFile || json.Unmarshal(out, &got) != nil {
		return nil, fmt.Errorf("asking docker-credential-%s: its answer is not understood", helper)
	}
	a := &authn.AuthConfig{Username: got.Username, Password: got.Secret}
	if got.Username == "<token>" {
		a = &authn.AuthConfig{IdentityToken: got.Secret}
	}
	k.helped[key] = a
	return a, nil
}
