package copy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path"
	"runtime"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// record is what one copied name adds to the content key.
type record struct {
	rel    string
	entry  layer.Entry
	tree   layer.Tree
	name   string
	digest digest.Digest
}

// Digest returns the content key of what would be copied: names relative to each match, types, modes and owners as they will be
// in the layer, link targets, capabilities and contents. Times are no part of it, nor where in the source the files lie, so a
// fresh checkout of the same files has the same key. The destination is not looked at, only /etc/passwd and /etc/group where
// --chown has a name.
func Digest(ctx context.Context, r Request) (digest.Digest, error) {
	d, _, err := Inventory(ctx, r)
	return d, err
}

// File is one name that is copied: where it is in its source, and the beginning of a digest over what Digest takes of it.
type File struct {
	Name string
	Sum  [8]byte
}

// Inventory returns Digest's answer and what it is made of, for who wants to know which file changed. The list is made when it is asked for; false is
// for none, because there are more than the asker wants.
func Inventory(ctx context.Context, r Request) (digest.Digest, func(most int) ([]File, bool), error) {
	d := digest.Canonical.Digester()
	var buf []byte
	var kept []record
	batches, files := 0, 0
	err := r.batches(ctx, func(recs []record) error {
		if kept = nil; batches == 0 {
			kept = recs
		}
		batches++
		for i := range recs {
			if recs[i].tree != nil {
				files++
			}
			buf = recs[i].append(buf[:0])
			if _, err := d.Hash().Write(buf); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	return d.Digest(), func(most int) ([]File, bool) {
		switch {
		case files > most:
			return nil, false
		case batches <= 1:
			return filesOf(nil, kept), true
		}
		return r.filesAgain(ctx)
	}, nil
}

// filesAgain lists the files by walking the sources once more, of which trees remember the digests.
func (r Request) filesAgain(ctx context.Context) (out []File, ok bool) {
	err := r.batches(ctx, func(recs []record) error {
		out = filesOf(out, recs)
		return nil
	})
	// After an error the build has ended; it is only about explanations.
	return out, err == nil
}

func filesOf(out []File, recs []record) []File {
	var buf []byte
	for i := range recs {
		if recs[i].tree == nil {
			continue
		}
		buf = recs[i].append(buf[:0])
		sum := sha256.Sum256(buf)
		out = append(out, File{Name: recs[i].name, Sum: [8]byte(sum[:8])})
	}
	return out
}

// append encodes a record, each field with its length before it.
func (rec *record) append(b []byte) []byte {
	e := rec.entry
	for _, f := range []string{rec.rel, string(rune(e.Type)), strconv.FormatInt(e.Mode, 8), strconv.Itoa(e.UID), strconv.Itoa(e.GID),
		e.Linkname, strconv.FormatUint(uint64(e.Devmajor), 10), strconv.FormatUint(uint64(e.Devminor), 10), e.Xattrs[capabilityXattr], string(rec.digest)} {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// batchSize is how many records, of some 250 bytes, are in memory at once.
const batchSize = 4096

// batches calls fn with the records of all that would be copied, a part at a time and in order, complete with owners, modes and digests. The first
// part stays as it is; the memory of the others is used again.
func (r Request) batches(ctx context.Context, fn func([]record) error) error {
	own, err := r.owner()
	if err != nil {
		return err
	}
	md, err := parseMode(r.Chmod)
	if err != nil {
		return err
	}
	var recs, again []record
	flush := func() error {
		if err := digestFiles(ctx, recs); err != nil {
			return err
		}
		for i := range recs {
			own.apply(&recs[i].entry)
			md.apply(&recs[i].entry)
		}
		if err := fn(recs); err != nil {
			return err
		}
		if again == nil {
			again = make([]record, 0, batchSize)
		}
		recs = again[:0]
		return nil
	}
	err = r.records(ctx, func(rec record) error {
		if len(recs) == batchSize {
			if err := flush(); err != nil {
				return err
			}
		}
		recs = append(recs, rec)
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// records calls fn for each record, without its digest.
func (r Request) records(ctx context.Context, fn func(record) error) error {
	for i := range r.Sources {
		s := &r.Sources[i]
		if s.Identity != "" {
			// What --chmod and --exclude make of it depends on every file.
			for _, rel := range []string{s.Identity, r.Chmod, strconv.Quote(strings.Join(r.Exclude, "\x00"))} {
				if err := fn(record{rel: rel}); err != nil {
					return err
				}
			}
			continue
		}
		ms, err := r.matches(s)
		if err != nil {
			return err
		}
		// Where one source ends and the next begins belongs to the key.
		if err := fn(record{rel: strconv.Itoa(ms.n), entry: layer.Entry{Mode: boolBit(s.Plain) | boolBit(s.Unpack)<<1}}); err != nil {
			return err
		}
		err = ms.each(func(m match) error {
			return m.walk(ctx, func(f found) error { return fn(recordOf(s, m, f)) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func recordOf(s *Source, m match, f found) record {
	rel := f.rel
	if rel == "" {
		if f.entry.Type == layer.Dir && !s.Plain {
			f.entry = layer.Entry{Type: layer.Dir}
		} else {
			rel = path.Base(m.name)
		}
	}
	return record{rel: rel, entry: f.entry, tree: s.Tree, name: f.name}
}

// digestFiles fills in the digests of the files, several at once.
func digestFiles(ctx context.Context, recs []record) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i := range recs {
		rec := &recs[i]
		if rec.entry.Type != layer.File || rec.tree == nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			break
		}
		g.Go(func() error {
			d, err := rec.tree.Digest(ctx, rec.name)
			if err != nil {
				return fmt.Errorf("reading %q: %w", "/"+rec.name, err)
			}
			rec.digest = d
			return nil
		})
	}
	return g.Wait()
}

func boolBit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
