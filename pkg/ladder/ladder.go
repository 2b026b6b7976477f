// Package ladder chooses how the place around this process lets RUN be carried out: which namespaces, which executor over them, and which
// snapshotter to match. What a machine or a container allows cannot be told from its settings, so the rungs are tried, from the best to the
// last, by doing; that takes milliseconds, once per build. docs/confinement.md shows what is chosen where.
//
//	rung           needs                                              executor     snapshotter
//	userns         namespaces with many ids: as root, by an identity  namespace    overlay
//	               map, or by newuidmap                               or runc
//	userns-single  a user namespace with one id; others are imitated  namespace    overlay
//	ptrace         seccomp's user notification and ptrace, which      ptrace       native
//	               every container allows; the last resort, also
//	               where nothing can hold the upper directory of an
//	               overlay
//
// The choice has two halves. Enter comes first, in main, since namespaces can only be entered by starting the program again; Open comes
// inside.
package ladder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/cairn-build/cairn/pkg/userns"
	"github.com/cairn-build/cairn/snapshot"
)

// Isolation names a rung, or asks for the best one.
type Isolation string

// The rungs, best first, and Auto.
const (
	Auto         Isolation = "auto"
	Userns       Isolation = "userns"
	UsernsSingle Isolation = "userns-single"
	Chroot       Isolation = "chroot"
	Ptrace       Isolation = "ptrace"
)

// Rungs lists the rungs, best first.
func Rungs() []Isolation { return []Isolation{Userns, UsernsSingle, Chroot, Ptrace} }

// Parse reads the value of --isolation; "" is Auto.
func Parse(text string) (Isolation, error) {
	switch i := Isolation(text); {
	case text == "", i == Auto:
		return Auto, nil
	case slices.Contains(Rungs(), i):
		return i, nil
	}
	return "", fmt.Errorf("unknown isolation %q: want auto, userns, userns-single, chroot or ptrace", text)
}

// want is what of namespaces a rung needs.
func (i Isolation) want() userns.Want {
	switch i {
	case Userns:
		return userns.Full
	case UsernsSingle:
		return userns.Single
	case Chroot, Ptrace:
		return userns.Bare
	}
	return userns.Auto
}

// Enter brings the program to the place in which a rung works; see userns.EnterAs. The rung asked for that cannot be had is an error.
func Enter(i Isolation) (done bool, code int, err error) {
	done, code, err = userns.EnterAs(i.want())
	if err != nil && i != Auto {
		err = fmt.Errorf("isolation %s: %w", i, err)
	}
	return done, code, err
}

// Options say what a Rung works with.
type Options struct {
	// Isolation is the rung that Enter was called for.
	Isolation Isolation
	// Store keeps the snapshots.
	Store *store.Store
	Blob  Blob
}

// Rung is how RUN is carried out here.
type Rung struct {
	// Isolation is which rung it is.
	Isolation   Isolation
	Executor    executor.Executor
	Snapshotter snapshot.Snapshotter
	// Missed are the better rungs, with what keeps them from working here. It is empty on the best one.
	Missed []Missed

	// NewSnapshotter makes another Snapshotter over the same store, which takes the bytes of layers from elsewhere.
	NewSnapshotter func(Blob) (snapshot.Snapshotter, error)

	closers []func() error
}

// Blob returns the compressed bytes of a layer that has to be unpacked.
type Blob func(ctx context.Context, l layer.Layer) (io.ReadCloser, error)

// Missed is a rung that cannot be had.
type Missed struct {
	Rung Isolation `json:"rung"`
	// Obstacle is what stands in the way, Fix what would help; one sentence each, without a full stop.
	Obstacle string `json:"obstacle"`
	Fix      string `json:"fix,omitempty"`
}

// missed takes an error of this package, or of userns, apart into obstacle and fix.
func missed(i Isolation, text string) Missed {
	text = strings.TrimPrefix(text, "entering namespaces: ")
	what, fix := hint.Split(text)
	return Missed{Rung: i, Obstacle: what, Fix: fix}
}

// Open makes the executor and the snapshotter of the best rung that works in the place that Enter has entered.
func Open(o Options) (*Rung, error) {
	mode, inside := userns.Current()
	if !inside {
		return nil, errors.New("choosing an isolation: not in a place of its own (call ladder.Enter first)")
	}
	var passed []Missed
	var errs []error
	for _, i := range candidates(o.Isolation, mode) {
		r := &Rung{Isolation: i, Missed: slices.Clone(passed)}
		err := r.open(o)
		if err == nil {
			r.better(mode)
			return r, nil
		}
		errs = append(errs, fmt.Errorf("isolation %s: %w", i, errors.Join(err, r.Close())))
		passed = append(passed, missed(i, err.Error()))
	}
	return nil, errors.Join(errs...)
}

// candidates are the rungs that a place may have.
func candidates(asked Isolation, mode userns.Mode) []Isolation {
	switch {
	case asked != Auto:
		return []Isolation{asked}
	case mode.Bare:
		return []Isolation{Ptrace}
	case mode.Map == userns.SingleID:
		return []Isolation{UsernsSingle, Ptrace}
	}
	return []Isolation{Userns, Ptrace}
}

// better puts what Enter has found out before what Open has.
func (r *Rung) better(mode userns.Mode) {
	if mode.Obstacle == "" || !mode.Bare && mode.Map != userns.SingleID {
		return
	}
	r.Missed = append([]Missed{missed(Userns, mode.Obstacle)}, r.Missed...)
}

// Sentence says in one line which rung this is and why it is not a better one; "" on the best rung.
func (r *Rung) Sentence() string {
	if len(r.Missed) == 0 {
		return ""
	}
	m := r.Missed[0]
	s := fmt.Sprintf("isolation is %s, since %s cannot be had here: %s", r.Isolation, m.Rung, m.Obstacle)
	if m.Fix != "" {
		s += " (" + m.Fix + ")"
	}
	return s
}

// Close gives back what Open took, the last first. No process may be running. It is idempotent.
func (r *Rung) Close() error {
	var errs []error
	for _, c := range slices.Backward(r.closers) {
		errs = append(errs, c())
	}
	r.closers = nil
	return errors.Join(errs...)
}
