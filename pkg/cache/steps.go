package cache

import (
	"context"
	"sync"
)

// Steps is what answers steps: the local Cache, or one around it that also asks elsewhere (Imports), or that takes notes (Recorder).
// Implementations are safe for concurrent use.
type Steps interface {
	// Get returns the record of a key, and whether there is one.
	Get(ctx context.Context, k Key) (Record, bool, error)
	// Put keeps the record of a step that was carried out.
	Put(ctx context.Context, k Key, r Record) error
}

// Used is a step that a build looked up or carried out, with its outcome.
type Used struct {
	Key    Key
	Record Record
	// Hit is set when the record was found; else the step was carried out.
	Hit bool
}

// Recorder is a Steps that remembers what was used of the one below it, in the order in which the steps came to their end.
type Recorder struct {
	Steps

	mu   sync.Mutex
	used []Used
}

// NewRecorder returns a recorder over s.
func NewRecorder(s Steps) *Recorder { return &Recorder{Steps: s} }

// Get implements Steps.
func (r *Recorder) Get(ctx context.Context, k Key) (Record, bool, error) {
	rec, hit, err := r.Steps.Get(ctx, k)
	if hit && err == nil {
		r.note(Used{Key: k, Record: rec, Hit: true})
	}
	return rec, hit, err
}

// Put implements Steps.
func (r *Recorder) Put(ctx context.Context, k Key, rec Record) error {
	if err := r.Steps.Put(ctx, k, rec); err != nil {
		return err
	}
	r.note(Used{Key: k, Record: rec})
	return nil
}

func (r *Recorder) note(u Used) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = append(r.used, u)
}

// Used returns the steps so far.
func (r *Recorder) Used() []Used {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Used(nil), r.used...)
}
