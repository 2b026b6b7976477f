package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifestTypes are the media types of manifests and indexes that are understood.
var manifestTypes = []string{
	ocispec.MediaTypeImageManifest,
	ocispec.MediaTypeImageIndex,
	string(types.DockerManifestSchema2),
	string(types.DockerManifestList),
}

// IsIndex reports whether a media type is that of an index (manifest list).
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == string(types.DockerManifestList)
}

// IsManifest reports whether a media type is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == string(types.DockerManifestSchema2)
}

// Resolve fetches the manifest or index that a reference names. A digest in the reference is what the bytes must have; of a tag, the digest
// is computed. The platform is left to the caller. What is larger than MaxManifest, of another kind, or two kinds at once is refused.
func (c *Client) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, []byte, error) {
	t, err := parse(ref)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	var (
		desc ocispec.Descriptor
		body []byte
	)
	err = c.overRoutes(ctx, t.domain, func(r route) error {
		desc, body, err = r.manifest(ctx, t)
		return err
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return desc, body, nil
}

// Head asks what a reference names without fetching it: registries that count pulls do not count this. It is what the registry says; only the bytes
// that Resolve returns for the digest prove it. A registry that does not say it is an error.
func (c *Client) Head(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	t, err := parse(ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var desc ocispec.Descriptor
	err = c.overRoutes(ctx, t.domain, func(r route) error {
		resp, err := r.askManifest(ctx, t, http.MethodHead)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		desc = ocispec.Descriptor{
			MediaType: contentType(resp),
			Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
			Size:      resp.ContentLength,
		}
		if err := checkDigest(desc.Digest); err != nil {
			return &Error{Op: "resolving", Ref: t.ref, Host: r.name, Err: err}
		}
		if t.digest != "" && t.digest != desc.Digest {
			return &Error{Op: "resolving", Ref: t.ref, Host: r.name, Err: fmt.Errorf("the registry has %s under that digest", desc.Digest)}
		}
		return nil
	})
	return desc, err
}

func (r route) askManifest(ctx context.Context, t target, method string) (*http.Response, error) {
	repo := r.repo(t.path)
	resp, err := r.do(ctx, call{
		op: "resolving", ref: t.ref, method: method, repo: repo, path: "/manifests/" + t.manifest(),
		header: http.Header{"Accept": {strings.Join(manifestTypes, ", ")}},
		scopes: []string{pullScope(repo)},
	})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, r.failure("resolving", t.ref, resp)
	}
	return resp, nil
}

// manifest makes one attempt at fetching a manifest.
func (r route) manifest(ctx context.Context, t target) (ocispec.Descriptor, []byte, error) {
	resp, err := r.askManifest(ctx, t, http.MethodGet)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	defer resp.Body.Close()
	bad := func(err error) (ocispec.Descriptor, []byte, error) {
		return ocispec.Descriptor{}, nil, &Error{Op: "resolving", Ref: t.ref, Host: r.name, Err: err}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return ocispec.Descriptor{}, nil, r.broken("resolving", t.ref, err)
	}
	if len(body) > MaxManifest {
		return bad(fmt.Errorf("the manifest is larger than %d bytes", MaxManifest))
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(body), Size: int64(len(body))}
	if t.digest != "" {
		desc.Digest = t.digest.Algorithm().FromBytes(body)
		if desc.Digest != t.digest {
			// What was garbled on the way may be right the next time.
			_, _, err := bad(fmt.Errorf("what the registry sent has the digest %s", desc.Digest))
			return ocispec.Descriptor{}, nil, &temporary{err: err}
		}
	}
	if desc.MediaType, err = CheckManifest(contentType(resp), body); err != nil {
		return bad(err)
	}
	return desc, body, nil
}

func contentType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// CheckManifest returns the media type of a manifest or index, given the one it was delivered as ("" if not known). A document whose own media
// type is another one, that is both manifest and index (CVE-2021-41190), or of the old schema 1 is refused.
func CheckManifest(deliveredAs string, body []byte) (string, error) {
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return "", fmt.Errorf("the manifest is not JSON: %w", err)
	}
	if m.SchemaVersion == 1 || len(m.FSLayers) > 0 || types.MediaType(deliveredAs).IsSchema1() {
		return "", errors.New("the image has the old manifest schema 1, which is not supported: push it again with a newer tool")
	}
	if m.SchemaVersion != 2 {
		return "", fmt.Errorf("the manifest has schema version %d, not 2", m.SchemaVersion)
	}
	known := func(t string) bool { return IsIndex(t) || IsManifest(t) }
	mediaType := m.MediaType
	if mediaType == "" || !known(mediaType) && known(deliveredAs) {
		if m.MediaType != "" {
			return "", fmt.Errorf("the manifest was delivered as %s but says it is %s", deliveredAs, clean(m.MediaType))
		}
		mediaType = deliveredAs
	}
	if m.MediaType != "" && known(deliveredAs) && m.MediaType != deliveredAs {
		return "", fmt.Errorf("the manifest was delivered as %s but says it is %s", deliveredAs, clean(m.MediaType))
	}
	if !known(mediaType) && m.MediaType == "" {
		// A layout or a registry that says nothing leaves the document itself.
		mediaType = ocispec.MediaTypeImageManifest
		if present(m.Manifests) {
			mediaType = ocispec.MediaTypeImageIndex
		}
	}
	switch {
	case IsIndex(mediaType) && !present(m.Layers) && !present(m.Config):
		return mediaType, nil
	case IsManifest(mediaType) && !present(m.Manifests) && present(m.Config):
		return mediaType, nil
	case known(mediaType):
		return "", fmt.Errorf("the document is no proper %s: it has the fields of another kind, or lacks its own", mediaType)
	}
	return "", fmt.Errorf("the media type %s is not that of an image", clean(mediaType))
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }
