package progress

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// RawJSON returns a renderer that writes one JSON object a line, in the shape of BuildKit's client.SolveStatus
// (client/graph.go): vertexes, statuses, logs (data in base64) and warnings. A vertex's digest is its ID, or that of its ID
// where the ID is no digest.
func RawJSON(w io.Writer) Renderer {
	return &rawJSON{enc: json.NewEncoder(w), started: map[string]*jsonVertex{}}
}

type rawJSON struct {
	mu       sync.Mutex
	enc      *json.Encoder
	err      error
	closed   bool
	started  map[string]*jsonVertex
	counting map[string]time.Time
}

type jsonStatus struct {
	Vertexes []*jsonVertex  `json:"vertexes,omitempty"`
	Statuses []jsonCount    `json:"statuses,omitempty"`
	Logs     []jsonLog      `json:"logs,omitempty"`
	Warnings []*jsonWarning `json:"warnings,omitempty"`
}

type jsonVertex struct {
	Digest    digest.Digest `json:"digest,omitempty"`
	Name      string        `json:"name,omitempty"`
	Started   *time.Time    `json:"started,omitempty"`
	Completed *time.Time    `json:"completed,omitempty"`
	Cached    bool          `json:"cached,omitempty"`
	Error     string        `json:"error,omitempty"`
}

type jsonCount struct {
	ID        string        `json:"id"`
	Vertex    digest.Digest `json:"vertex,omitempty"`
	Name      string        `json:"name,omitempty"`
	Total     int64         `json:"total,omitempty"`
	Current   int64         `json:"current"`
	Timestamp time.Time     `json:"timestamp"`
	Started   *time.Time    `json:"started,omitempty"`
	Completed *time.Time    `json:"completed,omitempty"`
}

type jsonLog struct {
	Vertex    digest.Digest `json:"vertex,omitempty"`
	Stream    int           `json:"stream,omitempty"`
	Data      []byte        `json:"data"`
	Timestamp time.Time     `json:"timestamp"`
}

type jsonWarning struct {
	Vertex digest.Digest `json:"vertex,omitempty"`
	Level  int           `json:"level,omitempty"`
	Short  []byte        `json:"short,omitempty"`
	URL    string        `json:"url,omitempty"`
	Source *jsonSource   `json:"sourceInfo,omitempty"`
	Range  []jsonRange   `json:"range,omitempty"`
}

type jsonSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
}

type jsonRange struct {
	Start jsonPosition `json:"start"`
	End   jsonPosition `json:"end"`
}

type jsonPosition struct {
	Line int `json:"line,omitempty"`
}

func vertexDigest(id string) digest.Digest {
	if d, err := digest.Parse(id); err == nil {
		return d
	}
	return digest.FromString(id)
}

// Event implements Sink.
func (r *rawJSON) Event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.err != nil {
		return
	}
	d := vertexDigest(e.Vertex)
	var s jsonStatus
	switch e.Kind {
	case Started:
		t := e.Time
		v := &jsonVertex{Digest: d, Name: Clean(e.Name), Started: &t}
		r.started[e.Vertex] = v
		s.Vertexes = []*jsonVertex{v}
	case Completed:
		v := jsonVertex{Digest: d}
		if known := r.started[e.Vertex]; known != nil {
			v = *known
			delete(r.started, e.Vertex)
		}
		t := e.Time
		v.Completed, v.Cached = &t, e.Cached
		if e.Err != nil {
			v.Error = joinLines(cleanLines(e.Err.Error()))
		}
		s.Vertexes = []*jsonVertex{&v}
	case Output:
		s.Logs = []jsonLog{{Vertex: d, Stream: e.Stream, Data: e.Data, Timestamp: e.Time}}
	case Counted:
		s.Statuses = []jsonCount{r.count(d, e)}
	case Warned:
		if e.Warning == nil {
			return
		}
		s.Warnings = []*jsonWarning{warningJSON(d, e.Warning)}
	default:
		return
	}
	r.err = r.enc.Encode(s)
}

func (r *rawJSON) count(d digest.Digest, e Event) jsonCount {
	if r.counting == nil {
		r.counting = map[string]time.Time{}
	}
	key := e.Vertex + "\x00" + e.Name
	start, ok := r.counting[key]
	if !ok {
		start = e.Time
		r.counting[key] = start
	}
	c := jsonCount{ID: Clean(e.Name), Vertex: d, Current: e.Current, Total: e.Total, Timestamp: e.Time, Started: &start}
	if e.Total > 0 && e.Current >= e.Total {
		t := e.Time
		c.Completed = &t
		delete(r.counting, key)
	}
	return c
}

func warningJSON(d digest.Digest, w *Warning) *jsonWarning {
	out := &jsonWarning{Vertex: d, Level: 1, Short: []byte(w.String()), URL: Clean(w.URL)}
	if w.File != "" || len(w.Source) > 0 {
		out.Source = &jsonSource{Filename: Clean(w.File), Data: w.Source}
	}
	if w.First > 0 {
		out.Range = []jsonRange{{Start: jsonPosition{w.First}, End: jsonPosition{max(w.First, w.Last)}}}
	}
	return out
}

func joinLines(lines []string) string {
	s := lines[0]
	for _, l := range lines[1:] {
		s += "\n" + l
	}
	return s
}

// Close implements Renderer.
func (r *rawJSON) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.err
}
