package source

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
)

// keptBucket holds, by URL, what was fetched from it. The content is a blob of the store, which pruning keeps as long as the
// record.
const keptBucket = "http"

// keptFile is what the server said of a file that is in the store.
type keptFile struct {
	Digest   digest.Digest `json:"digest"`
	Size     int64         `json:"size"`
	ETag     string        `json:"etag,omitempty"`
	Modified string        `json:"modified,omitempty"`
	// Time is the file's mtime in Unix seconds.
	Time int64 `json:"time"`
}

// keptFile returns what is kept of a URL, or nil. A record that cannot be used is as good as none.
func (o ContextOptions) keptFile(rawURL string) *keptFile {
	if o.Store == nil {
		return nil
	}
	data, err := o.Store.Record(keptBucket, rawURL)
	if err != nil {
		return nil
	}
	k := &keptFile{}
	if err := json.Unmarshal(data, k); err != nil {
		return nil
	}
	if size, ok := o.Store.HasBlob(k.Digest); !ok || size != k.Size {
		return nil
	}
	return k
}

// ask makes a request conditional on the file having changed.
func (k *keptFile) ask(req *http.Request) {
	switch {
	case k == nil:
	case k.ETag != "":
		req.Header.Set("If-None-Match", k.ETag)
	case k.Modified != "":
		req.Header.Set("If-Modified-Since", k.Modified)
	}
}

// tree is a tree with the kept file.
func (k *keptFile) tree(name string, o ContextOptions) *Context {
	when := time.Unix(k.Time, 0)
	file := layer.Item{
		Entry: layer.Entry{Path: name, Type: layer.File, Mode: 0o600, Size: k.Size, ModTime: when, Sum: layer.SumOf(k.Digest)},
		Open:  func() (io.ReadCloser, error) { return o.Store.OpenBlob(k.Digest) },
	}
	return &Context{Tree: fileTree{&file}, Time: when}
}

// keep puts a fetched file into the store, so that the next build need not fetch it again if the server says that it is the same.
func (o ContextOptions) keep(ctx context.Context, rawURL string, f *Fetched) error {
	if o.Store == nil {
		return nil
	}
	w, err := o.Store.NewBlob(ctx)
	if err != nil {
		return fmt.Errorf("keeping what was fetched: %w", err)
	}
	defer w.Abort()
	if _, err := io.Copy(w, io.NewSectionReader(f.File, 0, f.Size)); err != nil {
		return fmt.Errorf("keeping what was fetched: %w", err)
	}
	if _, err := w.Commit(f.Digest); err != nil {
		return fmt.Errorf("keeping what was fetched: %w", err)
	}
	data, err := json.Marshal(keptFile{Digest: f.Digest, Size: f.Size, ETag: f.ETag, Modified: f.modified, Time: f.LastModified.Unix()})
	if err != nil {
		return err
	}
	return o.Store.PutRecord(keptBucket, rawURL, data)
}
