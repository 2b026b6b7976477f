package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// ttyTick is how often the live lines are drawn.
	ttyTick = 100 * time.Millisecond
	// ttyTail is how many lines of the output of a running step are shown; ttyKeep how many bytes of each are kept.
	ttyTail = 6
	ttyKeep = 1 << 10
)

// TTYOptions are what TTY must know of the terminal.
type TTYOptions struct {
	// Size returns columns and rows; 0, 0 where they are not known (then 80, 24).
	Size    func() (cols, rows int)
	NoColor bool
}

// TTY returns a renderer for a terminal. What has ended is written once, a line each, and scrolls away; below it the running
// steps are drawn anew ten times a second, with their times, transfers and the last lines of their output.
//
//	=> [1/3] FROM docker.io/library/debian:12                    2.1s
//	[+] Building 3.4s (1/3)
//	 => [2/3] RUN make                                           1.3s
//	 => => # cc -o hello hello.c
//
// The terminal is never put into another mode: each drawing is one write that leaves the cursor below what it drew, so there is
// nothing to restore if the process is killed.
func TTY(w io.Writer, o TTYOptions) Renderer {
	t := newTTY(w, o, time.Now)
	t.ticker = startTicker(ttyTick, t.tick)
	return t
}

func newTTY(w io.Writer, o TTYOptions, now func() time.Time) *tty {
	return &tty{w: w, o: o, now: now, tails: map[*vertex][]string{}}
}

type tty struct {
	ticker *ticker
	now    func() time.Time

	mu       sync.Mutex
	w        io.Writer
	o        TTYOptions
	err      error
	closed   bool
	state    state
	begun    time.Time
	ended    int
	failed   bool
	running  []*vertex
	tails    map[*vertex][]string
	warnings []string
	// lasting are lines to be written once; drawn is how many live lines are on the screen.
	lasting []string
	drawn   int
}

// The colours (SGR, ECMA-48 8.3.117).
const (
	red    = "31"
	yellow = "33"
	blue   = "34"
	faint  = "2"
)

func (t *tty) paint(sgr, s string) string {
	if t.o.NoColor || s == "" {
		return s
	}
	return "\x1b[" + sgr + "m" + s + "\x1b[0m"
}

// Event implements Sink.
func (t *tty) Event(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if t.begun.IsZero() {
		t.begun = t.now()
	}
	known := len(t.state.order)
	v := t.state.get(e)
	if len(t.state.order) > known {
		t.running = append(t.running, v)
	}
	switch e.Kind {
	case Output:
		v.stream(e.Stream).write(e.Time, e.Data, func(line string) { t.keep(v, line) })
	case Counted:
		v.count(e)
	case Warned:
		if e.Warning != nil {
			t.warnings = append(t.warnings, e.Warning.String())
		}
	case Completed:
		t.complete(v, e)
	}
}

// keep adds a line to the tail of a vertex.
func (t *tty) keep(v *vertex, line string) {
	tail := append(t.tails[v], cutTo(line, ttyKeep))
	if len(tail) > ttyTail {
		tail = append(tail[:0], tail[len(tail)-ttyTail:]...)
	}
	t.tails[v] = tail
}

func (t *tty) complete(v *vertex, e Event) {
	if !v.ended.IsZero() {
		return
	}
	v.ended, v.cached, v.err = e.Time, e.Cached, e.Err
	v.out = [2]lineBuffer{}
	v.transfers = nil
	delete(t.tails, v)
	for i, r := range t.running {
		if r == v {
			t.running = append(t.running[:i], t.running[i+1:]...)
			break
		}
	}
	t.ended++
	cols, _ := t.size()
	name, took := v.name, fmt.Sprintf("%.1fs", v.ended.Sub(v.started).Seconds())
	switch {
	case v.cached:
		t.lasting = append(t.lasting, t.paint(blue, columns(" => CACHED "+name, took, cols)))
	case errors.Is(v.err, context.Canceled):
		t.lasting = append(t.lasting, t.paint(yellow, columns(" => CANCELED "+name, took, cols)))
	case v.err != nil:
		t.failed = true
		t.lasting = append(t.lasting, t.paint(red, columns(" => ERROR "+name, took, cols)))
	default:
		t.lasting = append(t.lasting, t.paint(blue, columns(" => "+name, took, cols)))
	}
}

func (t *tty) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed && !t.begun.IsZero() {
		t.draw(t.live())
	}
}

// Close implements Renderer.
func (t *tty) Close() error {
	t.ticker.stop()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.err
	}
	t.closed = true
	if t.begun.IsZero() {
		return t.err
	}
	cols, _ := t.size()
	for _, v := range t.running {
		took := fmt.Sprintf("%.1fs", t.now().Sub(v.started).Seconds())
		t.lasting = append(t.lasting, t.paint(yellow, columns(" => CANCELED "+v.name, took, cols)))
	}
	for _, w := range t.warnings {
		t.lasting = append(t.lasting, t.paint(yellow, " WARN: "+w))
	}
	word := "FINISHED"
	if t.failed {
		word = "FAILED"
	}
	t.lasting = append(t.lasting, t.heading(word))
	t.draw(nil)
	return t.err
}

func (t *tty) heading(word string) string {
	s := fmt.Sprintf("[+] Building %.1fs (%d/%d)", t.now().Sub(t.begun).Seconds(), t.ended, len(t.state.order))
	if word != "" {
		s += " " + word
	}
	return s
}

func (t *tty) size() (cols, rows int) {
	if t.o.Size != nil {
		cols, rows = t.o.Size()
	}
	if cols <= 0 || rows <= 0 {
		return 80, 24
	}
	return max(cols, 20), max(rows, 4)
}

// live returns the lines of what runs, at most as many as there is room for: with too many steps running, first the output
// goes, then the steps that started last.
func (t *tty) live() []string {
	cols, rows := t.size()
	room := rows - 2
	tail := 0
	if n := len(t.running); n > 0 {
		tail = min(ttyTail, max(0, (room-n)/n))
	}
	lines := []string{t.heading("")}
	for _, v := range t.running {
		took := fmt.Sprintf("%.1fs", t.now().Sub(v.started).Seconds())
		lines = append(lines, columns(" => "+v.name, took, cols))
		more := t.transferLines(v, cols)
		out := append([]string(nil), t.tails[v]...)
		for i := range v.out {
			if v.out[i].pending() {
				out = append(out, cutTo(Clean(string(bytes.TrimRight(v.out[i].buf, "\r"))), ttyKeep))
			}
		}
		for _, l := range out {
			more = append(more, t.paint(faint, cutTo(" => => # "+strings.ReplaceAll(l, "\t", "    "), cols-1)))
		}
		lines = append(lines, more[max(0, len(more)-tail):]...)
	}
	if len(lines) > room {
		lines = append(lines[:room-1], fmt.Sprintf(" => and %d lines more", len(lines)-room+1))
	}
	return lines
}

// transferLines shows the transfers that are under way with a bar each.
func (t *tty) transferLines(v *vertex, cols int) []string {
	var out []string
	for _, tr := range v.transfers {
		if tr.done {
			continue
		}
		bar := ""
		if tr.total > 0 {
			const width = 20
			n := int(min(int64(width), max(0, int64(float64(tr.current)/float64(tr.total)*width))))
			bar = " [" + strings.Repeat("=", n) + strings.Repeat(" ", width-n) + "]"
		}
		took := fmt.Sprintf("%.1fs", t.now().Sub(tr.started).Seconds())
		out = append(out, columns(" => => "+tr.name, tr.bytes()+bar+" "+took, cols))
	}
	return out
}

// draw replaces the live lines on the screen, in one write: up to the first of them, clear to the end, the lasting lines,
// the new live ones. Lines do not wrap while it writes (DECAWM), or the count of lines would be wrong where a rune is wider
// than one column.
func (t *tty) draw(live []string) {
	if len(live) == 0 && len(t.lasting) == 0 && t.drawn == 0 {
		return
	}
	var b bytes.Buffer
	b.WriteString("\x1b[?7l")
	if t.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", t.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range t.lasting {
		b.WriteString(l + "\n")
	}
	for _, l := range live {
		b.WriteString(l + "\n")
	}
	b.WriteString("\x1b[?7h")
	t.lasting, t.drawn = nil, len(live)
	if t.err == nil {
		_, t.err = t.w.Write(b.Bytes())
	}
}

// columns puts left and right at the ends of a line of cols columns; left is cut if there is not room for both.
func columns(left, right string, cols int) string {
	left = strings.ReplaceAll(left, "\t", " ")
	room := cols - 2 - utf8.RuneCountInString(right)
	left = cutTo(left, max(room, 8))
	return left + strings.Repeat(" ", max(1, room+1-utf8.RuneCountInString(left))) + right
}

// cutTo returns the first n runes of s, the last of them an ellipsis if there were more.
func cutTo(s string, n int) string {
	if len(s) <= n || utf8.RuneCountInString(s) <= n {
		return s
	}
	i := 0
	for at := range s {
		if i++; i == n {
			return s[:at] + "…"
		}
	}
	return s
}
