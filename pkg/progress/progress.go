// Package progress carries what a build has to say while it runs, as typed events, from the phases to whoever shows them.
//
// A phase holds a Sink and reports Vertexes: a vertex is one piece of work with a name ("[build 2/5] RUN make"), a
// start, an end, output, and counted transfers. How that is shown is the business of a renderer (Plain, TTY, RawJSON, Quiet).
package progress

import (
	"context"
	"io"
	"time"
)

// Event is one thing that happened to a vertex.
type Event struct {
	Vertex string // the vertex's ID
	Time   time.Time
	Kind   Kind
	// Name is the vertex's name, with Started; or of the counted transfer, with Counted.
	Name string
	// Cached is set on Completed when nothing had to be done; Err when it failed.
	Cached bool
	Err    error
	// Stream is 1 for stdout and 2 for stderr, with Output. Data is what was written, whole or in part lines.
	Stream int
	Data   []byte
	// Current and Total count bytes (Total is 0 when unknown), with Counted.
	Current, Total int64
	// Warning is the text of a Warned event; File and Line (first, last; 1-based) its place.
	Warning *Warning
}

// Kind says what an Event reports.
type Kind string

// The kinds of events.
const (
	Started   Kind = "started"
	Completed Kind = "completed"
	Output    Kind = "output"
	Counted   Kind = "counted"
	Warned    Kind = "warned"
)

// Warning is a finding about the Dockerfile.
type Warning struct {
	Rule, Message, URL string
	File               string
	First, Last        int // 1-based lines
	Source             []byte
}

// Sink takes events. Implementations are safe for concurrent use and do not keep Data.
type Sink interface {
	Event(Event)
}

// Vertex is one running piece of work.
type Vertex struct {
	id   string
	sink Sink
}

type sinkKey struct{}

// With returns a context whose work is reported to sink.
func With(ctx context.Context, sink Sink) context.Context {
	return context.WithValue(ctx, sinkKey{}, sink)
}

// From returns the sink of ctx; one that drops everything if there is none.
func From(ctx context.Context) Sink {
	if s, ok := ctx.Value(sinkKey{}).(Sink); ok {
		return s
	}
	return discard{}
}

type discard struct{}

func (discard) Event(Event) {}

// Start reports the start of a vertex. id must be unique in the build; a digest or "stage/step" will do.
func Start(ctx context.Context, id, name string) *Vertex {
	v := &Vertex{id: id, sink: From(ctx)}
	v.sink.Event(Event{Vertex: id, Time: time.Now(), Kind: Started, Name: name})
	return v
}

// Done reports the end of the vertex, with the error it ended with or nil.
func (v *Vertex) Done(err error) {
	v.sink.Event(Event{Vertex: v.id, Time: time.Now(), Kind: Completed, Err: err})
}

// Cached reports that the vertex had nothing to do.
func (v *Vertex) Cached() {
	v.sink.Event(Event{Vertex: v.id, Time: time.Now(), Kind: Completed, Cached: true})
}

// Count reports how far a counted transfer is, in bytes.
func (v *Vertex) Count(name string, current, total int64) {
	v.sink.Event(Event{Vertex: v.id, Time: time.Now(), Kind: Counted, Name: name, Current: current, Total: total})
}

// Warn reports a finding.
func (v *Vertex) Warn(w Warning) {
	v.sink.Event(Event{Vertex: v.id, Time: time.Now(), Kind: Warned, Warning: &w})
}

// Stdout and Stderr are writers whose output is shown as the vertex's.
func (v *Vertex) Stdout() io.Writer { return stream{v, 1} }

// Stderr is the other stream.
func (v *Vertex) Stderr() io.Writer { return stream{v, 2} }

type stream struct {
	v *Vertex
	n int
}

func (s stream) Write(p []byte) (int, error) {
	s.v.sink.Event(Event{Vertex: s.v.id, Time: time.Now(), Kind: Output, Stream: s.n, Data: p})
	return len(p), nil
}
