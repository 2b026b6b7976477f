package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The types of exported cache mounts (moby/buildkit#1474): an artifact with a layer for each directory, and the list of them.
const (
	MountsArtifactType = "application/vnd.cairn.cachemounts.v1"
	mountsType         = "application/vnd.cairn.cachemounts.list.v1+json"
)

// maxMounts bounds the directories of one artifact, maxMountsBlob their list in bytes.
const (
	maxMounts     = 1000
	maxMountsBlob = 4 << 20
)

// mountsDocument is the config of exported cache mounts.
type mountsDocument struct {
	Version int             `json:"version"`
	Mounts  []mountDocument `json:"mounts"`
}

// mountDocument is one directory: its id, its own owner and mode, and what is in it as a layer.
type mountDocument struct {
	ID     string             `json:"id"`
	UID    int                `json:"uid"`
	GID    int                `json:"gid"`
	Mode   uint32             `json:"mode"`
	DiffID digest.Digest      `json:"diffID"`
	Blob   ocispec.Descriptor `json:"blob"`
}

// MountsImport is the cache mounts of one --cache-mounts-from. Nothing of their content has been fetched.
type MountsImport struct {
	depot  depot
	mounts map[string]mountDocument
}

// OpenMounts fetches the list of the cache mounts at a location.
func OpenMounts(ctx context.Context, l Location, reg Registry) (*MountsImport, error) {
	m, err := openMounts(ctx, l, reg)
	if err != nil {
		return nil, fmt.Errorf("importing cache mounts from %s: %w", l, err)
	}
	return m, nil
}

func openMounts(ctx context.Context, l Location, reg Registry) (*MountsImport, error) {
	d, err := openDepot(l, reg, false)
	if err != nil {
		return nil, err
	}
	_, body, err := d.resolve(ctx)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	if m.Config.MediaType != mountsType {
		return nil, fmt.Errorf("it has no cache mounts of cairn, but %q", m.Config.MediaType)
	}
	data, err := d.small(ctx, plain(m.Config), maxMountsBlob)
	if err != nil {
		return nil, err
	}
	var doc mountsDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if doc.Version != artifactVersion || len(doc.Mounts) > maxMounts {
		return nil, fmt.Errorf("version %d with %d cache mounts is not supported", doc.Version, len(doc.Mounts))
	}
	out := &MountsImport{depot: d, mounts: map[string]mountDocument{}}
	for _, md := range doc.Mounts {
		if checkDigest(md.DiffID) != nil || !valid(layer.Layer{DiffID: md.DiffID, Descriptor: md.Blob}) || md.UID < 0 || md.GID < 0 {
			return nil, fmt.Errorf("cache mount %q is not valid", md.ID)
		}
		md.Blob = plain(md.Blob)
		if l.wants(md.ID) {
			out.mounts[md.ID] = md
		}
	}
	return out, nil
}

// Len is the number of directories that may be imported.
func (m *MountsImport) Len() int { return len(m.mounts) }

// Fill puts what the import has for a cache mount into its directory, which must be new and empty. It reports whether there was anything. The
// content is unpacked beside and takes the directory's place only when all of it has been read and is what its digests say.
func (m *MountsImport) Fill(ctx context.Context, st *store.Store, id, dir string) (bool, error) {
	md, ok := m.mounts[id]
	if !ok {
		return false, nil
	}
	if err := m.fill(ctx, st, md, dir); err != nil {
		return false, fmt.Errorf("importing cache mount %q from %s: %w", id, m.depot.name(), err)
	}
	return true, nil
}

func (m *MountsImport) fill(ctx context.Context, st *store.Store, md mountDocument, dir string) (err error) {
	tmp, err := st.TempDir("mount-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = st.RemoveTemp(tmp)
		}
	}()
	rc, err := m.depot.blob(ctx, md.Blob)
	if err != nil {
		return err
	}
	defer rc.Close()
	ix, err := layer.Unpack(ctx, rc, layer.Layer{DiffID: md.DiffID, Descriptor: md.Blob}, tmp, nil, layer.Limits{Temp: st.TempFile})
	if err == nil {
		_, err = io.Copy(io.Discard, rc) // only at its end is the blob known to be what its digest says
	}
	if err != nil {
		return err
	}
	for e := range ix.All() {
		if e.Type == layer.Whiteout || e.Opaque {
			return fmt.Errorf("%q is a whiteout, which a directory of its own cannot have", e.Path)
		}
	}
	if err := ix.Err(); err != nil {
		return err
	}
	if err := os.Chown(tmp, md.UID, md.GID); err != nil {
		return err
	}
	if err := os.Chmod(tmp, os.FileMode(md.Mode&0o777)|modeBits(md.Mode)); err != nil {
		return err
	}
	// Package os refuses to rename over a directory; rename(2) replaces one that is empty.
	if err := syscall.Rename(tmp, dir); err != nil {
		return &os.LinkError{Op: "rename", Old: tmp, New: dir, Err: err}
	}
	return st.RemoveTemp(tmp)
}

// modeBits are the sticky, setuid and setgid bits as package os has them.
func modeBits(mode uint32) (m os.FileMode) {
	if mode&syscall.S_ISVTX != 0 {
		m |= os.ModeSticky
	}
	if mode&syscall.S_ISUID != 0 {
		m |= os.ModeSetuid
	}
	if mode&syscall.S_ISGID != 0 {
		m |= os.ModeSetgid
	}
	return m
}

// MountsOptions are what cache mounts are exported with.
type MountsOptions struct {
	Registry Registry
	Store    *store.Store
	// IDs are the cache mounts of the build. From is asked for those that have no directory here, because no step used them.
	IDs  []string
	From []*MountsImport
	// Progress is told how much of a blob there is; nil is allowed.
	Progress func(name string, n, total int64)
}

// ErrNoMounts is returned when there is nothing to export: what is at the location stays.
var ErrNoMounts = errors.New("there are no cache mounts to export")

// ExportMounts writes the directories of cache mounts to a location, replacing what its name stood for. Their content is the same bytes as long
// as names, contents, modes, owners and times in seconds are.
func ExportMounts(ctx context.Context, l Location, o MountsOptions) (Exported, error) {
	d, err := openDepot(l, o.Registry, true)
	if err != nil {
		return Exported{}, fmt.Errorf("exporting cache mounts to %s: %w", l, err)
	}
	out, err := exportMounts(ctx, d, l, o)
	if err != nil {
		return Exported{}, fmt.Errorf("exporting cache mounts to %s: %w", l, err)
	}
	return out, nil
}

func exportMounts(ctx context.Context, d depot, l Location, o MountsOptions) (Exported, error) {
	doc := mountsDocument{Version: artifactVersion}
	ids := slices.Clone(o.IDs)
	slices.Sort(ids)
	var layers []ocispec.Descriptor
	for _, id := range slices.Compact(ids) {
		if !l.wants(id) {
			continue
		}
		md, open, err := o.mount(ctx, id)
		if err != nil {
			return Exported{}, fmt.Errorf("cache mount %q: %w", id, err)
		}
		if open == nil {
			continue
		}
		up := registry.Upload{Open: open}
		if o.Progress != nil {
			up.Progress = func(n int64) { o.Progress("exporting "+id, n, md.Blob.Size) }
		}
		if err := d.put(ctx, md.Blob, up); err != nil {
			return Exported{}, fmt.Errorf("cache mount %q: %w", id, err)
		}
		doc.Mounts = append(doc.Mounts, md)
		layers = append(layers, md.Blob)
	}
	if len(doc.Mounts) == 0 {
		return Exported{}, ErrNoMounts
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return Exported{}, err
	}
	config := newBlob(mountsType, data)
	m, err := manifestOf(MountsArtifactType, config.desc, layers)
	if err != nil {
		return Exported{}, err
	}
	if err := d.put(ctx, config.desc, bytesUpload(config.data)); err != nil {
		return Exported{}, err
	}
	return Exported{Descriptor: m.desc, Layers: len(layers)}, d.publish(ctx, m)
}

// mount makes the layer of one cache mount, or finds it in an import. open is nil if there is nothing.
func (o MountsOptions) mount(ctx context.Context, id string) (md mountDocument, open func() (io.ReadCloser, error), err error) {
	dir, err := o.Store.FindCacheDir(id)
	if errors.Is(err, fs.ErrNotExist) {
		for _, im := range o.From {
			if md, ok := im.mounts[id]; ok {
				return md, func() (io.ReadCloser, error) { return im.depot.blob(ctx, md.Blob) }, nil
			}
		}
		return md, nil, nil
	}
	if err != nil {
		return md, nil, err
	}
	// A step of another build whose sharing mode is "locked" has the directory for itself.
	unlock, err := o.Store.Lock(ctx, "cache-mount/"+id)
	if err != nil {
		return md, nil, err
	}
	defer unlock()
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return md, nil, err
	}
	md = mountDocument{ID: id, UID: int(st.Uid), GID: int(st.Gid), Mode: st.Mode & 0o7777}
	if md.DiffID, md.Blob, err = o.pack(ctx, dir); err != nil {
		return md, nil, err
	}
	return md, func() (io.ReadCloser, error) { return o.Store.OpenBlob(md.Blob.Digest) }, nil
}

// pack makes a layer of a directory, in the store.
func (o MountsOptions) pack(ctx context.Context, dir string) (digest.Digest, ocispec.Descriptor, error) {
	fail := func(err error) (digest.Digest, ocispec.Descriptor, error) { return "", ocispec.Descriptor{}, err }
	b, err := o.Store.NewBlob(ctx)
	if err != nil {
		return fail(err)
	}
	defer b.Abort()
	w, err := layer.NewWriter(b, layer.Compression{Type: "zstd"})
	if err != nil {
		return fail(err)
	}
	w.Temp = o.Store.TempFile
	if err := layer.Diff(ctx, dir, nil, w); err != nil {
		return fail(err)
	}
	diffID, mediaType, _, err := w.Close()
	if err != nil {
		return fail(err)
	}
	desc, err := b.Commit("")
	desc.MediaType = mediaType
	return diffID, desc, err
}

// wants reports whether a cache mount is among those of the location. An id without mode and owner means those with them too.
func (l Location) wants(id string) bool {
	return len(l.IDs) == 0 || slices.Contains(l.IDs, id) || slices.Contains(l.IDs, plainID(id))
}

// plainID is the id of a cache mount without the mode and owner that the plan adds to it.
func plainID(id string) string {
	if i := strings.LastIndex(id, ",uid="); i > 0 {
		return id[:i]
	}
	return id
}

// MissingIDs returns the ids that a location asks for and a build does not have.
func (l Location) MissingIDs(have []string) (missing []string) {
	for _, id := range l.IDs {
		if !slices.ContainsFunc(have, func(h string) bool { return h == id || plainID(h) == id }) {
			missing = append(missing, id)
		}
	}
	return missing
}
