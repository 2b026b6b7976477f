package progress

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// vertex is what a renderer knows of a Vertex.
type vertex struct {
	id, name string
	// index is its number in the order of starts, from 1.
	index          int
	started, ended time.Time
	cached         bool
	err            error
	// out are the streams: stdout, stderr.
	out       [2]lineBuffer
	transfers []*transfer
}

// transfer is one counted transfer of a vertex.
type transfer struct {
	name           string
	current, total int64
	started, last  time.Time
	shown          time.Time
	done           bool
	// reported is set when its end has been shown.
	reported bool
}

// state is all vertexes of a build, in the order of their starts. It is not safe for concurrent use.
type state struct {
	byID  map[string]*vertex
	order []*vertex
}

// get returns the vertex of an event; one that was never started counts as started now.
func (s *state) get(e Event) *vertex {
	if v, ok := s.byID[e.Vertex]; ok {
		return v
	}
	if s.byID == nil {
		s.byID = map[string]*vertex{}
	}
	v := &vertex{id: e.Vertex, name: Clean(strings.ReplaceAll(e.Name, "\n", " ")), index: len(s.order) + 1, started: e.Time}
	if v.name == "" || e.Kind != Started {
		v.name = Clean(e.Vertex)
	}
	s.byID[e.Vertex] = v
	s.order = append(s.order, v)
	return v
}

// count records a transfer and returns it.
func (v *vertex) count(e Event) *transfer {
	name := Clean(e.Name)
	for _, t := range v.transfers {
		if t.name == name {
			t.current, t.total, t.last = e.Current, e.Total, e.Time
			t.done = t.total > 0 && t.current >= t.total
			return t
		}
	}
	t := &transfer{name: name, current: e.Current, total: e.Total, started: e.Time, last: e.Time, shown: e.Time}
	t.done = t.total > 0 && t.current >= t.total
	v.transfers = append(v.transfers, t)
	return t
}

// bytes is how far the transfer is: "1.05MB / 3.2MB".
func (t *transfer) bytes() string {
	s := units.HumanSizeWithPrecision(float64(t.current), 3)
	if t.total > 0 {
		s += " / " + units.HumanSizeWithPrecision(float64(t.total), 3)
	}
	return s
}

// stream returns the buffer of an output event.
func (v *vertex) stream(n int) *lineBuffer {
	if n == 2 {
		return &v.out[1]
	}
	return &v.out[0]
}

// outcome is how a vertex ended, in lines: "DONE 1.2s", "CACHED", "CANCELED", "ERROR: ...".
func (v *vertex) outcome() []string {
	switch {
	case v.cached:
		return []string{"CACHED"}
	case errors.Is(v.err, context.Canceled):
		return []string{"CANCELED"}
	case v.err != nil:
		lines := cleanLines(v.err.Error())
		lines[0] = "ERROR: " + lines[0]
		return lines
	}
	return []string{fmt.Sprintf("DONE %.1fs", v.ended.Sub(v.started).Seconds())}
}

// stamp is the time of a line of output since the vertex's start, in seconds, with three significant digits or so.
func (v *vertex) stamp(t time.Time) string {
	sec := t.Sub(v.started).Seconds()
	digits := 1
	switch {
	case sec < 1:
		digits = 3
	case sec < 10:
		digits = 2
	}
	return strconv.FormatFloat(max(sec, 0), 'f', digits, 64)
}

// String is the warning as one line: "Rule: message (line 3)".
func (w *Warning) String() string {
	s := w.Message
	if w.Rule != "" {
		s = w.Rule + ": " + s
	}
	if w.First > 0 {
		s += fmt.Sprintf(" (line %d)", w.First)
	}
	return Clean(strings.ReplaceAll(s, "\n", " "))
}
