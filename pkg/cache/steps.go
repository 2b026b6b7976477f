package cache

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Steps is what answers steps: the local Cache, or one around it that also asks elsewhere (Imports), or that takes notes (Recorder).
// Implementations are safe for concurrent use.
type Steps interface {
	// Get returns the record of a key, and whether there is one.
	Get(ctx context.Context, k Key) (Record, bool, error)
	// Put keeps the record of a step that was carried out.
	Put(ctx context.Context, k Key, r Record) error
}

// Explainer is a Steps that can say why a key missed.
type Explainer interface {
	Steps
	Explain(ctx context.Context, k Key) Reason
}

// Used is a step of a build with its outcome.
type Used struct {
	Key    Key
	Record Record
	// Hit is set when the record was found. Else Reason says why not; nil if nobody asked, or the step was not looked up (--no-cache).
	Hit    bool
	Reason *Reason
	// Done is set when the step came to its end.
	Done bool
}

// RecorderOptions say what a Recorder does besides remembering records.
type RecorderOptions struct {
	// Explain finds out why steps miss.
	Explain bool
	// Inputs keeps what later explanations need of every step, for an export.
	Inputs bool
	// Expect are the stages whose steps must be found; nil is none. A miss is a *MissError.
	Expect func(stage string) bool
}

// MissError is a step that was expected to be in the cache.
type MissError struct {
	Place  Place
	Reason Reason
}

func (e *MissError) Error() string {
	return fmt.Sprintf("stage %s was expected to be cached, but %s is not: %s", e.Place.Stage, e.Place.Name, e.Reason)
}

// Recorder is a Steps that remembers what was used of the one below it.
type Recorder struct {
	below   Explainer
	options RecorderOptions

	mu       sync.Mutex
	used     []Used
	at       map[Place]int // in used
	memories map[digest.Digest]memory
}

// NewRecorder returns a recorder over below.
func NewRecorder(below Explainer, o RecorderOptions) *Recorder {
	return &Recorder{below: below, options: o, at: map[Place]int{}, memories: map[digest.Digest]memory{}}
}

// Get implements Steps.
func (r *Recorder) Get(ctx context.Context, k Key) (Record, bool, error) {
	rec, hit, err := r.below.Get(ctx, k)
	if err != nil || k.place.IsZero() {
		return rec, hit, err
	}
	u := Used{Key: k, Record: rec, Hit: hit, Done: hit}
	expected := r.options.Expect != nil && r.options.Expect(k.place.Stage)
	if !hit && (r.options.Explain || expected) {
		reason := r.below.Explain(ctx, k)
		u.Reason = &reason
	}
	r.note(u)
	if !hit && expected {
		return rec, false, &MissError{Place: k.place, Reason: *u.Reason}
	}
	return rec, hit, nil
}

// Put implements Steps.
func (r *Recorder) Put(ctx context.Context, k Key, rec Record) error {
	if err := r.below.Put(ctx, k, rec); err != nil || k.place.IsZero() {
		return err
	}
	r.note(Used{Key: k, Record: rec, Done: true})
	return nil
}

// note remembers a step; what came of it takes the place of its look-up.
func (r *Recorder) note(u Used) {
	var m memory
	if r.options.Inputs && u.Done {
		m = memoryOf(u.Key)
	}
	// The list of files may be large, and is in m if it is needed.
	u.Key.files = nil
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.options.Inputs && u.Done {
		r.memories[u.Key.Digest()] = m
	}
	if i, ok := r.at[u.Key.place]; ok {
		u.Reason = r.used[i].Reason
		r.used[i] = u
		return
	}
	r.at[u.Key.place] = len(r.used)
	r.used = append(r.used, u)
}

// Used returns the steps so far.
func (r *Recorder) Used() []Used {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.used)
}
