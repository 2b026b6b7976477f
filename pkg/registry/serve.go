package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// Serve runs a registry for demonstrations and tests until ctx ends: go-containerregistry's, without authentication or TLS. An address
// without a host ("", ":5000") is on loopback; port 0 is any free one. Blobs are kept in dir, which is created; manifests, and with them
// all names, only in memory: a registry that is started again is empty but has the blobs. With dir "" those are in memory too. The
// address is written to out when connections are accepted ("registry: listening on 127.0.0.1:5000"), then one line for each request.
func Serve(ctx context.Context, addr, dir string, out io.Writer) error {
	if addr == "" {
		addr = ":5000"
	}
	hostPart, portPart, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("reading registry address %q: %w", addr, err)
	}
	if hostPart == "" {
		hostPart = "127.0.0.1"
	}
	opts := []ggcr.Option{ggcr.Logger(log.New(out, "registry: ", 0)), ggcr.WithReferrersSupport(true)}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the registry's directory: %w", err)
		}
		opts = append(opts, ggcr.WithBlobHandler(ggcr.NewDiskBlobHandler(dir)))
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(hostPart, portPart))
	if err != nil {
		return fmt.Errorf("starting the registry: %w", err)
	}
	fmt.Fprintf(out, "registry: listening on %s\n", l.Addr())
	srv := &http.Server{Handler: ggcr.New(opts...), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(out, "registry: ", 0)}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the registry: %w", err)
	}
	<-closed
	return nil
}
