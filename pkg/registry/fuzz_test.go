package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// FuzzChallenge has a registry ask for credentials in any words. They reach no other host than its own, and nothing is asked of hosts of the inside.
func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://auth.example.com/token",service="x",scope="repository:a:pull"`, `Basic realm="x"`, `Bearer`, `Negotiate`, `basic`,
		`Bearer realm="http://127.0.0.2:5001/t"`, `Bearer realm="http://[::1]:80/t"`, `Bearer realm="http://2130706433/t"`, `Bearer realm="http://0x7f.1/t"`,
		`Bearer realm="https://r.example.com.evil.net/t"`, `Bearer realm="https://r.example.com@evil.net/t"`, `Bearer realm="https://evil.net/t"`, `Bearer realm="https://evil.net\@r.example.com/"`,
		`Bearer realm="https://u:p@r.example.com/t",error="invalid_token"`, `Bearer realm="`, `Bearer realm=,service=`, `Bearer realm="ftp://x"`, `Bearer realm="https://r.example.com/t", Basic realm="y"`,
	} {
		f.Add(s, `{"token":"t"}`)
		f.Add(s, `{"access_token":"t","expires_in":-1}`)
	}
	f.Add(`Bearer realm="https://auth.example.com/token"`, `{"token":{}}`)
	const secret = "correct-horse"
	file := filepath.Join(f.TempDir(), "config.json")
	if err := os.WriteFile(file, []byte(`{"auths":{"r.example.com":{"username":"ann","password":"`+secret+`"}}}`), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, challenge, token string) {
		c, err := New(Options{AuthFiles: []string{file}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		inside := newInside(challenge, token)
		defer inside.close()
		c.hop.verified.DialContext, c.hop.lax.DialContext = inside.dial, inside.dial
		// Without a network TLS would prove nothing.
		c.hop.verified.DialTLSContext, c.hop.lax.DialTLSContext = inside.dial, inside.dial
		c.hop.verified.Proxy, c.hop.lax.Proxy = nil, nil
		h, err := c.host("r.example.com")
		if err != nil {
			t.Fatal(err)
		}
		auth, err := h.authorize(t.Context(), call{op: "pulling", ref: "x", method: "GET", repo: "a", scopes: []string{pullScope("a")}}, false)
		if err == nil && strings.ContainsAny(auth, "\r\n") {
			t.Errorf("the header is %q", auth)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the password: %v", err)
		}
		if inside.leaked.Load() {
			t.Error("another host got the credentials")
		}
	})
}

// inside is all hosts of a network that exists in this process only: each answers as the registry does.
type inside struct {
	conns  chan net.Conn
	gone   chan struct{}
	once   sync.Once
	server http.Server
	leaked atomic.Bool
}

type hostKey struct{}

func newInside(challenge, token string) *inside {
	in := &inside{conns: make(chan net.Conn), gone: make(chan struct{})}
	in.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			w.Header()["Www-Authenticate"] = []string{challenge}
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body := make([]byte, 4096)
		n, _ := r.Body.Read(body)
		all := r.Header.Get("Authorization") + r.URL.RawQuery + string(body[:n])
		if host, _ := r.Context().Value(hostKey{}).(string); host != "example.com" && !strings.HasSuffix(host, ".example.com") &&
			(strings.Contains(all, "correct-horse") || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte("ann:correct-horse")))) {
			in.leaked.Store(true)
		}
		_, _ = w.Write([]byte(token))
	})
	in.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, hostKey{}, c.(piped).host)
	}
	go func() { _ = in.server.Serve(in) }()
	return in
}

// piped is a connection that knows which host it was made to.
type piped struct {
	net.Conn
	host string
}

func (in *inside) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	select {
	case in.conns <- piped{theirs, host}:
		return ours, nil
	case <-in.gone:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept, Close and Addr make inside the listener of its server.
func (in *inside) Accept() (net.Conn, error) {
	select {
	case c := <-in.conns:
		return c, nil
	case <-in.gone:
		return nil, net.ErrClosed
	}
}

func (in *inside) Close() error {
	in.once.Do(func() { close(in.gone) })
	return nil
}

func (in *inside) Addr() net.Addr { return &net.TCPAddr{} }

func (in *inside) close() { _ = in.server.Close() }

// FuzzManifest: a document is one thing or refused, and what it is has the fields that make it so.
func FuzzManifest(f *testing.F) {
	const oci, index = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"
	for _, body := range []string{
		`{"schemaVersion":2,"mediaType":"` + oci + `","config":{},"layers":[]}`, `{"schemaVersion":2,"manifests":[]}`, `{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`,
		`{"schemaVersion":2,"layers":[],"Manifests":[]}`, `{"schemaVersion":1,"fsLayers":[]}`, `[]`, ``, `{"schemaVersion":2,"mediaType":1}`, `{"layers":null}`,
		"{\"schemaVersion\":2,\"config\":{},\"layers\":[],\"layer\u017f\":[]}",
	} {
		f.Add(oci, []byte(body))
		f.Add(index, []byte(body))
		f.Add("", []byte(body))
	}
	f.Fuzz(func(t *testing.T, as string, body []byte) {
		kind, err := CheckManifest(as, body)
		if err != nil {
			return
		}
		if IsManifest(kind) == IsIndex(kind) {
			t.Errorf("%q is neither one nor the other, or both", kind)
		}
		var m struct{ Layers, Manifests json.RawMessage }
		if err := json.Unmarshal(body, &m); err != nil {
			t.Errorf("what is no JSON was accepted: %v", err)
		}
		if IsIndex(kind) && len(m.Layers) > 0 || IsManifest(kind) && len(m.Manifests) > 0 {
			t.Errorf("%s was taken for %s", body, kind)
		}
	})
}
