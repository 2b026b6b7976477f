package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
)

// LoginHost returns the registry that an argument of login names: a host, with scheme and path left out; "" is docker.io.
func LoginHost(arg string) (string, error) {
	host := strings.TrimSuffix(bareHost(arg), "/")
	if arg == "" || arg == authn.DefaultAuthKey || slices.Contains(hostKeys(dockerHub), host) {
		return dockerHub, nil
	}
	if !validHost(host) {
		return "", fmt.Errorf("reading registry host %q: want HOST or HOST:PORT", clean(arg))
	}
	return host, nil
}

// Keychain returns the credentials of a user for one registry, to be asked before AuthFiles.
func Keychain(host, user, password string) authn.Keychain {
	if host == dockerHub {
		host = "index.docker.io" // as go-containerregistry calls it
	}
	return loginKeychain{host, authn.AuthConfig{Username: user, Password: password}}
}

type loginKeychain struct {
	host string
	auth authn.AuthConfig
}

// Resolve implements authn.Keychain.
func (k loginKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if h := r.RegistryStr(); h != k.host && !(k.host == "index.docker.io" && (h == dockerHub || h == hubHost)) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(k.auth), nil
}

// Login asks a registry whether it takes the client's credentials for it, as `docker login` does: GET /v2/ is answered with 200.
// found is false if the client has none.
func (c *Client) Login(ctx context.Context, domain string) (found bool, err error) {
	h, err := c.host(domain)
	if err != nil {
		return false, err
	}
	auth, err := c.keys.lookup(ctx, h.name, "")
	if err != nil {
		return false, &Error{Op: "logging in", Ref: domain, Host: domain, Err: err}
	}
	if auth == nil {
		return false, nil
	}
	rt := call{op: "logging in", ref: domain, method: http.MethodGet}
	if _, err := h.authorize(ctx, rt, false); err != nil { // the ping tells the scheme
		return true, err
	}
	rt.url = &url.URL{Scheme: h.scheme(), Host: h.addr, Path: "/v2/"}
	resp, err := h.do(ctx, rt)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return true, h.failure(rt.op, rt.ref, resp)
	}
	return true, nil
}

// credentialFile is a config.json, or auth.json, being changed. What it has besides credentials stays as it is.
type credentialFile struct {
	name string
	all  map[string]json.RawMessage
	authFile
	auths map[string]json.RawMessage
}

func openCredentialFile(name string) (*credentialFile, error) {
	f := &credentialFile{name: name, all: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	data, err := readLimited(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(data)) == 0 {
		return f, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading credentials: %w", err)
	}
	// The decoder's message may quote what it read.
	if json.Unmarshal(data, &f.all) != nil || json.Unmarshal(data, &f.authFile) != nil {
		return nil, fmt.Errorf("reading credentials: %s is not JSON in the form of Docker's config.json", name)
	}
	if raw, ok := f.all["auths"]; ok && json.Unmarshal(raw, &f.auths) != nil || f.all == nil {
		return nil, fmt.Errorf("reading credentials: %s is not JSON in the form of Docker's config.json", name)
	}
	if f.auths == nil {
		f.auths = map[string]json.RawMessage{}
	}
	return f, nil
}

// save writes the file, readable by its owner only; it has the old content or the new one. A symlink stays one.
func (f *credentialFile) save() error {
	auths, err := json.Marshal(f.auths)
	if err != nil {
		return err
	}
	f.all["auths"] = auths
	data, err := json.MarshalIndent(f.all, "", "\t")
	if err != nil {
		return err
	}
	name := f.name
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// helperFor returns the credential helper that a registry's credentials belong to, "" for the file itself.
func (f *credentialFile) helperFor(host string) (string, error) {
	helper := f.CredsStore
	for _, key := range hostKeys(host) {
		if h, ok := f.CredHelpers[key]; ok {
			helper = h
			break
		}
	}
	if helper != "" && !helperName.MatchString(helper) {
		return "", fmt.Errorf("%q is no name of a credential helper", clean(helper))
	}
	return helper, nil
}

// serverKey is what a registry's credentials are filed under.
func serverKey(host string) string {
	if host == dockerHub {
		return authn.DefaultAuthKey
	}
	return host
}

// SaveLogin keeps credentials for a registry in a file in the form of Docker's config.json: with the credential helper that the
// file names for it, or else in the file itself, unencrypted; then inFile is true.
func SaveLogin(ctx context.Context, file, host, user, password string) (inFile bool, err error) {
	f, err := openCredentialFile(file)
	if err != nil {
		return false, err
	}
	helper, err := f.helperFor(host)
	if err != nil {
		return false, err
	}
	entry := authEntry{}
	if helper == "" {
		entry.Auth = base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	} else {
		input, err := json.Marshal(credentials.Credentials{ServerURL: serverKey(host), Username: user, Secret: password})
		if err != nil {
			return false, err
		}
		if err := tellHelper(ctx, helper, "store", input); err != nil {
			return false, err
		}
	}
	if f.auths[serverKey(host)], err = json.Marshal(entry); err != nil {
		return false, err
	}
	if err := f.save(); err != nil {
		return false, fmt.Errorf("keeping credentials: %w", err)
	}
	return helper == "", nil
}

// RemoveLogin removes the credentials of a registry from a file and its credential helper. found is false if there were none.
func RemoveLogin(ctx context.Context, file, host string) (found bool, err error) {
	f, err := openCredentialFile(file)
	if err != nil {
		return false, err
	}
	helper, err := f.helperFor(host)
	if err != nil {
		return false, err
	}
	keep := func(key string) bool {
		for _, k := range append(hostKeys(host), host) {
			if key == k || bareHost(key) == k {
				return false
			}
		}
		return true
	}
	for key := range f.auths {
		if !keep(key) {
			delete(f.auths, key)
			found = true
		}
	}
	if helper != "" {
		k := &keychain{helped: map[string]*authn.AuthConfig{}}
		a, err := k.helper(ctx, helper, serverKey(host))
		if err != nil {
			return found, err
		}
		if a != nil {
			found = true
			if err := tellHelper(ctx, helper, "erase", []byte(serverKey(host))); err != nil {
				return found, err
			}
		}
	}
	if !found {
		return false, nil
	}
	if err := f.save(); err != nil {
		return found, fmt.Errorf("removing credentials: %w", err)
	}
	return true, nil
}

// tellHelper runs docker-credential-NAME. Its output is not repeated: there may be a secret in it.
func tellHelper(ctx context.Context, helper, verb string, input []byte) error {
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.Stdin = bytes.NewReader(input)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("telling docker-credential-%s to %s: %w", helper, verb, err)
	}
	return nil
}
