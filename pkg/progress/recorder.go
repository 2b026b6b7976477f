package progress

import "sync"

// Recorder is a Sink that passes everything on and keeps the last lines that each running vertex put out, so that the report
// of a failed step can show them. It is safe for concurrent use.
type Recorder struct {
	next Sink
	keep int

	mu       sync.Mutex
	state    state
	tails    map[string][]string
	failed   []Failure
	warnings []Warning
}

// Failure is a vertex that ended with an error.
type Failure struct {
	Vertex, Name string
	Err          error
	// Tail is the last lines of its output, cleaned, oldest first.
	Tail []string
}

// NewRecorder returns a Recorder that keeps n lines of a vertex and passes events to next.
func NewRecorder(next Sink, n int) *Recorder {
	return &Recorder{next: next, keep: n, tails: map[string][]string{}}
}

// Event implements Sink.
func (r *Recorder) Event(e Event) {
	r.record(e)
	r.next.Event(e)
}

func (r *Recorder) record(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.state.get(e)
	switch e.Kind {
	case Output:
		v.stream(e.Stream).write(e.Time, e.Data, func(line string) { r.add(v, line) })
	case Warned:
		if e.Warning != nil {
			r.warnings = append(r.warnings, *e.Warning)
		}
	case Completed:
		for i := range v.out {
			if v.out[i].pending() {
				r.add(v, v.out[i].take())
			}
			v.out[i] = lineBuffer{}
		}
		if e.Err != nil {
			r.failed = append(r.failed, Failure{Vertex: v.id, Name: v.name, Err: e.Err, Tail: r.tails[v.id]})
		}
		delete(r.tails, v.id)
	}
}

// add keeps a line, dropping the oldest when there are too many.
func (r *Recorder) add(v *vertex, line string) {
	t := append(r.tails[v.id], line)
	if len(t) > r.keep {
		t = append(t[:0], t[len(t)-r.keep:]...)
	}
	r.tails[v.id] = t
}

// Failures returns the vertexes that ended with an error, in the order in which they did.
func (r *Recorder) Failures() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Failure(nil), r.failed...)
}

// Warnings returns the findings so far.
func (r *Recorder) Warnings() []Warning {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Warning(nil), r.warnings...)
}
