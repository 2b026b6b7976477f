package registry

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

func writeAuth(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestKeychain: where credentials are found. dTpw is u:p, eDp5 x:y, Og== ":".
func TestKeychain(t *testing.T) {
	for _, tt := range []struct{ name, file, registry, repo, want string }{
		{"host", `{"auths":{"r.example":{"auth":"dTpw"}}}`, "r.example", "a", "u:p"},
		{"other host", `{"auths":{"r.example":{"auth":"dTpw"}}}`, "r.example.evil", "a", ""},
		{"other port", `{"auths":{"r.example":{"auth":"dTpw"}}}`, "r.example:5000", "a", ""},
		{"legacy key", `{"auths":{"https://r.example/v1/":{"auth":"dTpw"}}}`, "r.example", "a", "u:p"},
		{"docker hub", `{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}`, "docker.io", "library/a", "u:p"},
		{"docker hub, podman", `{"auths":{"docker.io":{"auth":"dTpw"}}}`, "docker.io", "library/a", "u:p"},
		{"path", `{"auths":{"r.example/g/p":{"auth":"dTpw"},"r.example":{"auth":"eDp5"}}}`, "r.example", "g/p/a", "u:p"},
		{"path, longest", `{"auths":{"r.example/g":{"auth":"eDp5"},"r.example/g/p":{"auth":"dTpw"}}}`, "r.example", "g/p", "u:p"},
		{"path of another", `{"auths":{"r.example/g/p":{"auth":"dTpw"},"r.example":{"auth":"eDp5"}}}`, "r.example", "g/pp", "x:y"},
		{"path only", `{"auths":{"r.example/g/p":{"auth":"dTpw"}}}`, "r.example", "g", ""},
		{"plain fields", `{"auths":{"r.example":{"username":"u","password":"p"}}}`, "r.example", "a", "u:p"},
		{"identity token", `{"auths":{"r.example":{"auth":"dTpw","identitytoken":"it"}}}`, "r.example", "a", "u:p it"},
		{"empty entry", `{"auths":{"r.example":{}}}`, "r.example", "a", ""},
		{"empty file", ``, "r.example", "a", ""},
		{"no base64", `{"auths":{"r.example":{"auth":"%%%"}}}`, "r.example", "a", "error"},
		{"not JSON", `{"auths": secret`, "r.example", "a", "error"},
		{"helper", `{"credHelpers":{"r.example":"test"},"auths":{"r.example":{"auth":"eDp5"}}}`, "r.example", "a", "helped:r.example"},
		{"helper of another", `{"credHelpers":{"q.example":"test"},"auths":{"r.example":{"auth":"eDp5"}}}`, "r.example", "a", "x:y"},
		{"store", `{"credsStore":"test"}`, "r.example", "a", "helped:r.example"},
		{"store, docker hub", `{"credsStore":"test"}`, "docker.io", "library/a", "helped:https://index.docker.io/v1/"},
		{"store without it", `{"credsStore":"test","auths":{"none.example":{"auth":"eDp5"}}}`, "none.example", "a", "x:y"},
		{"store, token", `{"credsStore":"test"}`, "token.example", "a", ": it"},
		{"store, broken", `{"credsStore":"test"}`, "broken.example", "a", "error"},
		{"store, missing", `{"credsStore":"not-installed-here"}`, "r.example", "a", "error"},
		{"store, path", `{"credsStore":"../../tmp/x"}`, "r.example", "a", "error"},
		{"store, option", `{"credsStore":"-x"}`, "r.example", "a", "error"},
		{"helper, path", `{"credHelpers":{"r.example":"a/b"}}`, "r.example", "a", "error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			useHelper(t)
			k := &keychain{files: []string{"/does/not/exist", writeAuth(t, tt.file)}}
			a, err := k.lookup(t.Context(), tt.registry, tt.repo)
			got := ""
			switch {
			case err != nil:
				got = "error"
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("the error quotes the file: %v", err)
				}
			case a != nil:
				got = strings.TrimSpace(a.Username + ":" + a.Password + " " + a.IdentityToken)
			}
			if got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// useHelper puts docker-credential-test into the path, which knows every server but some.
func useHelper(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	script := `#!/bin/sh
read -r server
case "$1 $server" in
"get none.example") echo "credentials not found in native keychain"; exit 1;;
"get token.example") echo '{"ServerURL":"x","Username":"<token>","Secret":"it"}';;
"get broken.example") echo "secret"; exit 1;;
get*) echo '{"ServerURL":"x","Username":"helped","Secret":"'"$server"'"}';;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestKeychainFirst(t *testing.T) {
	k := &keychain{first: fixed{}, files: []string{writeAuth(t, `{"auths":{"r.example":{"auth":"dTpw"},"q.example":{"auth":"eDp5"}}}`)}}
	for host, want := range map[string]string{"r.example": "lib", "q.example": "x"} {
		a, err := k.lookup(t.Context(), host, "a")
		if err != nil || a.Username != want {
			t.Errorf("%s: %v, %v", host, a, err)
		}
	}
}

type fixed struct{}

func (fixed) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() != "r.example" {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: "lib", Password: "p"}), nil
}

func TestDefaultAuthFiles(t *testing.T) {
	for _, tt := range []struct {
		in   [4]string
		want string
	}{
		{[4]string{"", "", "", "/home/u"}, "/home/u/.docker/config.json /home/u/.config/containers/auth.json"},
		{[4]string{"", "/dc", "/run/u", "/home/u"}, "/dc/config.json /run/u/containers/auth.json /home/u/.config/containers/auth.json"},
		{[4]string{"/f", "/dc", "/run/u", "/home/u"}, "/f"},
		{[4]string{}, ""},
	} {
		if got := strings.Join(DefaultAuthFiles(tt.in[0], tt.in[1], tt.in[2], tt.in[3]), " "); got != tt.want {
			t.Errorf("%q: %s", tt.in, got)
		}
	}
}

// TestTrusts: which token servers get a registry's credentials.
func TestTrusts(t *testing.T) {
	c, err := New(Options{Realms: []string{"sso.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		registry, realm string
		want            bool
	}{
		{"docker.io", "https://auth.docker.io/token", true},
		{"registry.gitlab.com", "https://gitlab.com/jwt/auth", true},
		{"registry.example.co.uk", "https://auth.example.co.uk/t", true},
		{"registry.example.co.uk", "https://evil.co.uk/t", false},
		{"a.github.io", "https://b.github.io/t", false},
		{"r.example.com", "https://r.example.com:8443/t", true},
		{"r.example.com", "http://r.example.com/t", false},
		{"r.example.com", "https://example.com.evil.net/t", false},
		{"r.example.com", "https://sso.example.org/t", true},
		{"r.example.com", "http://sso.example.org/t", false},
		{"127.0.0.1:5000", "http://127.0.0.1:5001/t", true},
		{"127.0.0.1:5000", "http://127.0.0.2:5001/t", false},
		{"10.0.0.1", "https://10.0.0.1/t", true},
		{"10.0.0.1", "https://9.0.0.1/t", false},
	} {
		h, err := c.host(tt.registry)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(tt.realm)
		if err != nil {
			t.Fatal(err)
		}
		if got := h.trusts(u); got != tt.want {
			t.Errorf("%s, %s: %t", tt.registry, tt.realm, got)
		}
	}
}
