package registry_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairn-build/cairn/pkg/registry"
)

// startRegistry runs Debian's docker-registry on a free port of loopback with further lines of configuration, and returns its address.
func startRegistry(t *testing.T, http, auth string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp:\n  addr: %s\n%s%s",
		dir, addr, http, auth)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", file)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatalf("these tests need Debian's docker-registry: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("docker-registry: %s", &out)
		}
	})
	for range 200 {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return addr
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("docker-registry does not listen: %s", &out)
	return ""
}

// authority makes a CA and a certificate for loopback, and returns their files.
func authority(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	make509 := func(tmpl, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = k
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &k.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return k, der
	}
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootKey, rootDER := make509(root, root, nil)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"}, NotBefore: from, NotAfter: to,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature}
	leafKey, leafDER := make509(leaf, root, rootKey)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", rootDER), write("cert.pem", "CERTIFICATE", leafDER), write("key.pem", "EC PRIVATE KEY", keyDER)
}

// skopeo is the judge of what is in a registry.
func skopeo(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("skopeo", args...).CombinedOutput()
	if err != nil {
		t.Errorf("skopeo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestDockerRegistry(t *testing.T) {
	img := newImage(3_000_000)
	addr := startRegistry(t, "", "")
	ctx := t.Context()
	if err := push(ctx, newClient(t, registry.Options{}), addr+"/some/app", "v1", img); err != nil {
		t.Fatal(err)
	}
	if out := skopeo(t, "inspect", "--raw", "--tls-verify=false", "docker://"+addr+"/some/app:v1"); out != string(img.manifest) {
		t.Errorf("skopeo sees %s", out)
	}
	skopeo(t, "copy", "--src-tls-verify=false", "docker://"+addr+"/some/app:v1", "oci:"+t.TempDir()+":x")
	if err := pull(ctx, newClient(t, registry.Options{}), addr+"/some/app", "v1", img); err != nil {
		t.Error(err)
	}
	// Mounted: the content is never opened.
	err := newClient(t, registry.Options{}).PushBlob(ctx, addr+"/other", img.layerD, registry.Upload{
		Open:      func() (io.ReadCloser, error) { return nil, fmt.Errorf("opened") },
		MountFrom: []string{addr + "/not/there", addr + "/some/app"},
	})
	if err == nil || !strings.Contains(err.Error(), "opened") {
		t.Errorf("a repository without the blob: %v", err)
	}
	err = newClient(t, registry.Options{}).PushBlob(ctx, addr+"/other", img.layerD, registry.Upload{
		Open:      func() (io.ReadCloser, error) { return nil, fmt.Errorf("opened") },
		MountFrom: []string{addr + "/some/app"},
	})
	if err != nil {
		t.Errorf("mounting: %v", err)
	}
	if err := push(ctx, newClient(t, registry.Options{}), addr+"/other", "v1", img); err != nil {
		t.Error(err)
	}
	if d, err := newClient(t, registry.Options{}).Head(ctx, addr+"/other:v1"); err != nil || d.Digest != img.manifestD.Digest || d.Size != img.manifestD.Size {
		t.Errorf("%v, %v", d, err)
	}
	empty := newImage(0)
	if err := push(ctx, newClient(t, registry.Options{}), addr+"/empty", "v1", empty); err != nil {
		t.Errorf("an empty blob: %v", err)
	}
	if err := pull(ctx, newClient(t, registry.Options{}), addr+"/empty", "v1", empty); err != nil {
		t.Errorf("an empty blob: %v", err)
	}
}

// secretHash is the bcrypt of secretPassword.
const secretHash = "$2b$05$abcdefghijklmnopqrstuuSnF5tLPqPFqc0z9CY0HcSLFbSRlL67u"

func TestDockerRegistryAuth(t *testing.T) {
	img := newImage(100_000)
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(htpasswd, []byte(secretUser+":"+secretHash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := startRegistry(t, "", "auth: {htpasswd: {realm: test, path: "+htpasswd+"}}\n")
	c := newClient(t, registry.Options{AuthFiles: []string{authFile(t, addr)}})
	if err := push(t.Context(), c, addr+"/a", "v1", img); err != nil {
		t.Fatal(err)
	}
	if err := pull(t.Context(), c, addr+"/a", "v1", img); err != nil {
		t.Error(err)
	}
	skopeo(t, "inspect", "--tls-verify=false", "--creds", secretUser+":"+secretPassword, "--raw", "docker://"+addr+"/a:v1")
	_, _, err := newClient(t, registry.Options{}).Resolve(t.Context(), addr+"/a:v1")
	if err == nil || !strings.Contains(err.Error(), "cairn login "+addr) || !strings.Contains(err.Error(), "401") {
		t.Errorf("without credentials: %v", err)
	}
	wrong := strings.Replace(string(mustRead(t, authFile(t, addr))), `"auth":"`, `"auth":"eDp5","x":"`, 1)
	_, _, err = newClient(t, registry.Options{AuthFiles: []string{writeFile(t, wrong)}}).Resolve(t.Context(), addr+"/a:v1")
	if err == nil || !strings.Contains(err.Error(), "not accepted") || strings.Contains(err.Error(), "eDp5") {
		t.Errorf("with wrong credentials: %v", err)
	}
}

func mustRead(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDockerRegistryTLS(t *testing.T) {
	img := newImage(100_000)
	ca, cert, key := authority(t)
	addr := startRegistry(t, fmt.Sprintf("  tls: {certificate: %s, key: %s}\n", cert, key), "")
	ctx := t.Context()
	if err := push(ctx, newClient(t, registry.Options{CAFiles: []string{ca}}), addr+"/a", "v1", img); err != nil {
		t.Fatal(err)
	}
	skopeo(t, "inspect", "--tls-verify=false", "--raw", "docker://"+addr+"/a:v1")
	if err := pull(ctx, newClient(t, registry.Options{InsecureHosts: []string{addr}}), addr+"/a", "v1", img); err != nil {
		t.Errorf("insecure: %v", err)
	}
	_, _, err := newClient(t, registry.Options{}).Resolve(ctx, addr+"/a:v1")
	if err == nil || !strings.Contains(err.Error(), "--registry-ca") {
		t.Errorf("without the CA: %v", err)
	}
	// The certificate is for another name.
	_, port, _ := net.SplitHostPort(addr)
	if _, _, err := newClient(t, registry.Options{CAFiles: []string{ca}}).Resolve(ctx, "localhost:"+port+"/a:v1"); err == nil {
		t.Error("a certificate for another host was accepted")
	}
	if _, err := registry.New(registry.Options{CAFiles: []string{key}}); err == nil {
		t.Error("a file without certificates was accepted as CA")
	}
}

// TestCutUpload cuts uploads to a real registry in the middle. (Debian's gives up the session of an upload that was cut.)
func TestCutUpload(t *testing.T) {
	img := newImage(3_000_000)
	addr := startRegistry(t, "", "")
	target, err := url.Parse("http://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	for _, method := range []string{"PUT", "PATCH"} {
		var cut atomic.Bool
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method && r.ContentLength > 1_000_000 && cut.CompareAndSwap(false, true) {
				r.Body = io.NopCloser(&cutReader{r: r.Body, left: 2_000_000})
			}
			proxy.ServeHTTP(w, r)
		}))
		c := newClient(t, registry.Options{})
		if method == "PATCH" {
			registry.SetMonolithic(c, 1_000_000)
		}
		repo := "/" + strings.ToLower(method)
		if err := push(t.Context(), c, srv.Listener.Addr().String()+repo, "v1", img); err != nil || !cut.Load() {
			t.Errorf("%s: %v, cut %t", method, err, cut.Load())
		}
		srv.Close()
		if err := pull(t.Context(), newClient(t, registry.Options{}), addr+repo, "v1", img); err != nil {
			t.Error(err)
		}
	}
}

type cutReader struct {
	r    io.Reader
	left int
}

func (c *cutReader) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// TestServe starts the embedded registry, uses it, and stops it.
func TestServe(t *testing.T) {
	img := newImage(100_000)
	dir := t.TempDir()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- registry.Serve(ctx, ":0", dir, w)
		w.Close()
	}()
	line := make([]byte, 200)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	addr := strings.TrimSpace(strings.TrimPrefix(string(line[:n]), "registry: listening on "))
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Fatalf("listening on %q", addr)
	}
	c := newClient(t, registry.Options{})
	if err := push(ctx, c, addr+"/a", "v1", img); err != nil {
		t.Fatal(err)
	}
	if err := pull(ctx, c, addr+"/a", "v1", img); err != nil {
		t.Fatal(err)
	}
	skopeo(t, "inspect", "--tls-verify=false", "--raw", "docker://"+addr+"/a:v1")
	if _, err := os.Stat(filepath.Join(dir, "sha256", img.layerD.Digest.Encoded())); err != nil {
		t.Error(err)
	}
	c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
