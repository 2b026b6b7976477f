package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Pruned is what Prune has removed.
type Pruned struct {
	Blobs, Layers, Snapshots int
	// Bytes is the size of the blobs removed.
	Bytes int64
}

// Prune removes everything that is not reachable from refs (manifests, their configs and layers) and records (whatever they name
// by digest), and all leftovers. The cache directories of RUN mounts stay. Nobody else may have the store open, and this Store
// must not be writing: else it is ErrBusy, and nothing happens. Prune needs no free space on the disk.
func (s *Store) Prune(ctx context.Context) (Pruned, error) {
	p := newPruner(s)
	err := s.alone(func() error {
		// Nothing is removed before all is known that must stay.
		if err := p.mark(ctx); err != nil {
			return err
		}
		return errors.Join(p.sweepSnapshots(ctx), p.sweepLayers(ctx), p.sweepBlobs(ctx), p.sweepLocks(), s.sweepTemp())
	})
	if err != nil {
		return p.done, fmt.Errorf("pruning store %s: %w", s.root, err)
	}
	return p.done, nil
}

// alone does what nobody else may see half done; ErrBusy while somebody else has the store open, or this Store has something half
// written.
func (s *Store) alone(work func() error) error {
	s.sweeper.Wait()
	s.mu.Lock()
	busy := s.closed || len(s.temps) > 0 || s.writers.Load() > 0
	s.mu.Unlock()
	if busy {
		return ErrBusy
	}
	alone, err := tryFlock(s.lock, unix.LOCK_EX)
	// A flock that cannot be made exclusive may be lost altogether (flock(2)): take the shared one again in any case.
	defer func() { _ = flockWait(s.lock, unix.LOCK_SH) }()
	if err == nil && !alone {
		err = ErrBusy
	}
	if err != nil {
		return err
	}
	return work()
}

// pruner lives for one call of Prune. Its maps are what has to stay; layers by DiffID, snapshots by ChainID.
type pruner struct {
	s                        *Store
	blobs, layers, snapshots map[digest.Digest]bool
	done                     Pruned
}

func newPruner(s *Store) *pruner {
	return &pruner{s: s, blobs: map[digest.Digest]bool{}, layers: map[digest.Digest]bool{}, snapshots: map[digest.Digest]bool{}}
}

func (p *pruner) mark(ctx context.Context) error {
	return errors.Join(p.markRefs(), p.markRecords(ctx))
}

// markRefs marks what names lead to.
func (p *pruner) markRefs() error {
	refs, err := os.ReadDir(p.s.path(refsDir))
	if err != nil {
		return err
	}
	for _, file := range refs {
		// Unlike for Refs, a damaged name is an error here: what it named must not be taken for garbage.
		_, d, err := p.s.readRef(file.Name())
		if err == nil {
			err = p.keep(d.Digest)
		}
		if err != nil {
			name := refName(file.Name())
			return hint.With(fmt.Errorf("ref %q: %w", name, err), "cairn rmi "+name+" takes the name away")
		}
	}
	return nil
}

// markRecords marks what records name.
func (p *pruner) markRecords(ctx context.Context) error {
	return filepath.WalkDir(p.s.path(recordsDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		doc, err := openSealed(path)
		if errors.Is(err, ErrCorrupt) {
			return os.Remove(path)
		}
		if err != nil {
			return err
		}
		defer doc.Close()
		if err := digestsIn(io.NewSectionReader(doc, 0, doc.Size()), p.keep); err != nil {
			return fmt.Errorf("record %s: %w", path, err)
		}
		return nil
	})
}

// keep marks what a digest means, as a blob and as a DiffID, and all that is named there. What is not held is no error: an index
// has platforms nobody asked for, and layers may only be known to exist.
func (p *pruner) keep(d digest.Digest) error {
	if p.blobs[d] {
		return nil
	}
	p.blobs[d] = true
	if err := p.keepLayer(d); err != nil {
		return err
	}
	doc, err := p.s.readDocument(d)
	if errors.Is(err, ErrCorrupt) {
		// What it named cannot be known: remove nothing.
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, desc := range append(doc.Manifests, doc.Layers...) {
		if err := p.keep(desc.Digest); err != nil {
			return err
		}
	}
	for _, id := range doc.RootFS.DiffIDs {
		if err := p.keepLayer(id); err != nil {
			return err
		}
	}
	for _, id := range chainIDs(doc.RootFS.DiffIDs) {
		p.snapshots[id] = true
	}
	return nil
}

// keepLayer marks what is known of a layer, and the blob that it names.
func (p *pruner) keepLayer(diffID digest.Digest) error {
	if p.layers[diffID] {
		return nil
	}
	p.layers[diffID] = true
	l, err := p.s.Layer(diffID)
	if err != nil {
		// No layer, or one in a document that nobody can read any more.
		return nil
	}
	return p.keep(l.Descriptor.Digest)
}

// sweep removes the entries of a directory that keep does not want, and counts them.
func (p *pruner) sweep(ctx context.Context, dir string, keep func(name string) bool) (int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		if keep(e.Name()) {
			continue
		}
		// Renamed first: a snapshot that has gone half must not be taken for a whole one after a kill.
		gone := p.s.path(tmpDir, "old-"+rand.Text()[:12])
		if err := os.Rename(filepath.Join(dir, e.Name()), gone); err != nil {
			return n, err
		}
		if err := removeTree(gone); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (p *pruner) sweepSnapshots(ctx context.Context) error {
	_, err := p.sweep(ctx, p.s.path(snapshotsDir), func(name string) bool { return name == p.s.stamp })
	if err != nil {
		return err
	}
	p.done.Snapshots, err = p.sweep(ctx, p.s.path(snapshotsDir, p.s.stamp), func(name string) bool {
		return p.snapshots[digest.NewDigestFromEncoded(digest.SHA256, name)]
	})
	return err
}

func (p *pruner) sweepLayers(ctx context.Context) error {
	_, err := p.sweep(ctx, p.s.path(layersDir), func(name string) bool {
		base := strings.TrimSuffix(name, indexSuffix)
		keep := p.layers[digest.NewDigestFromEncoded(digest.SHA256, base)]
		if !keep && name == base {
			p.done.Layers++
		}
		return keep
	})
	return err
}

func (p *pruner) sweepBlobs(ctx context.Context) error {
	for b, err := range p.s.Blobs() {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if p.blobs[b.Digest] {
			continue
		}
		path, err := p.s.blobPath(b.Digest)
		if err != nil {
			return err
		}
		if err := removeFile(path); err != nil {
			return err
		}
		p.done.Blobs++
		p.done.Bytes += b.Size
	}
	return nil
}

// sweepLocks removes the files of named locks; who is alone in the store knows that none is held, but by itself.
func (p *pruner) sweepLocks() error {
	p.s.locks.mu.Lock()
	defer p.s.locks.mu.Unlock()
	if len(p.s.locks.held) > 0 {
		return nil
	}
	_, err := p.sweep(context.Background(), p.s.path(locksDir), func(string) bool { return false })
	return err
}
