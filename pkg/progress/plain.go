package progress

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// plainTick is how often Plain looks whether something has waited too long.
	plainTick = 250 * time.Millisecond
	// holdPart is how long part of a line waits for its end, holdOther how long the lines of a vertex wait while another has
	// the word.
	holdPart  = 2 * time.Second
	holdOther = 3 * time.Second
	// transferEvery is the least time between two lines about one transfer.
	transferEvery = 5 * time.Second
	// maxHeld bounds, in bytes, what may wait of one vertex.
	maxHeld = 256 << 10
)

// Plain returns a renderer that writes lines, for logs: each begins with the number of its vertex, so that the output of a
// step never stands at the beginning of a line, where CI systems look for their commands. One vertex at a time has the word;
// lines of others wait until it ends, or for three seconds.
//
//	#7 [2/3] RUN make
//	#7 0.312 cc -o hello hello.c
//	#7 DONE 1.2s
func Plain(w io.Writer) Renderer {
	p := newPlain(w, time.Now)
	p.ticker = startTicker(plainTick, p.tick)
	return p
}

func newPlain(w io.Writer, now func() time.Time) *plain {
	return &plain{w: w, now: now, held: map[*vertex]*held{}}
}

type plain struct {
	ticker *ticker
	now    func() time.Time

	mu      sync.Mutex
	w       io.Writer
	err     error
	closed  bool
	written bool
	state   state
	// current has the word, since when. held are the lines of those that wait, in order.
	current *vertex
	since   time.Time
	held    map[*vertex]*held
	queue   []*vertex
	out     bytes.Buffer
}

// held are lines that wait.
type held struct {
	lines bytes.Buffer
	since time.Time
}

// Event implements Sink.
func (p *plain) Event(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	v := p.state.get(e)
	switch e.Kind {
	case Started:
		p.say(v, nil)
	case Output:
		v.stream(e.Stream).write(e.Time, e.Data, func(line string) {
			p.say(v, []string{v.stamp(e.Time) + " " + line})
		})
	case Counted:
		p.counted(v, v.count(e))
	case Warned:
		if e.Warning != nil {
			p.say(v, []string{"WARN: " + e.Warning.String()})
		}
	case Completed:
		v.ended, v.cached, v.err = e.Time, e.Cached, e.Err
		p.endParts(v, 0)
		p.say(v, v.outcome())
		if p.current == v {
			p.leave()
		}
	}
	p.flush()
}

func (p *plain) counted(v *vertex, t *transfer) {
	if t.reported || !t.done && t.last.Sub(t.shown) < transferEvery {
		return
	}
	t.reported = t.done
	line := fmt.Sprintf("%s %s", t.name, t.bytes())
	if d := t.last.Sub(t.started).Seconds(); d > 0.01 {
		line += fmt.Sprintf(" %.1fs", d)
	}
	if t.done {
		line += " done"
	}
	t.shown = t.last
	p.say(v, []string{line})
}

// say writes lines of v, or keeps them if another has the word.
func (p *plain) say(v *vertex, lines []string) {
	if p.current == nil {
		p.enter(v)
	}
	dst := &p.out
	if p.current != v {
		h := p.held[v]
		if h == nil {
			h = &held{since: p.now()}
			p.held[v] = h
			p.queue = append(p.queue, v)
		}
		dst = &h.lines
	}
	for _, l := range lines {
		fmt.Fprintf(dst, "#%d %s\n", v.index, l)
	}
	if dst != &p.out && dst.Len() > maxHeld {
		p.switchTo(v)
	}
}

// enter gives v the word.
func (p *plain) enter(v *vertex) {
	if p.written {
		p.out.WriteByte('\n')
	}
	fmt.Fprintf(&p.out, "#%d %s\n", v.index, v.name)
	p.written = true
	p.current, p.since = v, p.now()
	if h := p.held[v]; h != nil {
		p.out.Write(h.lines.Bytes())
		delete(p.held, v)
		for i, q := range p.queue {
			if q == v {
				p.queue = append(p.queue[:i], p.queue[i+1:]...)
				break
			}
		}
	}
}

// leave takes the word from the current vertex, shows those that ended meanwhile and gives the word to the next that waits.
func (p *plain) leave() {
	p.current = nil
	for i := 0; i < len(p.queue); {
		if v := p.queue[i]; !v.ended.IsZero() {
			p.enter(v)
			p.current = nil
			continue
		}
		i++
	}
	if len(p.queue) > 0 {
		p.enter(p.queue[0])
	}
}

// switchTo takes the word from the current vertex, which goes on, for v.
func (p *plain) switchTo(v *vertex) {
	if p.current != nil {
		fmt.Fprintf(&p.out, "#%d ...\n", p.current.index)
		p.current = nil
	}
	p.enter(v)
	if !v.ended.IsZero() {
		p.leave()
	}
}

// tick shows what has waited too long.
func (p *plain) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for _, v := range p.state.order {
		if v.ended.IsZero() {
			p.endParts(v, holdPart)
		}
	}
	now := p.now()
	if p.current != nil && now.Sub(p.since) >= holdOther {
		for _, v := range p.queue {
			if h := p.held[v]; h.lines.Len() > 0 && now.Sub(h.since) >= holdOther {
				p.switchTo(v)
				break
			}
		}
	}
	p.flush()
}

// endParts shows the parts of lines of v that are older than age.
func (p *plain) endParts(v *vertex, age time.Duration) {
	for i := range v.out {
		b := &v.out[i]
		if b.pending() && (age == 0 || p.now().Sub(b.since) >= age) {
			at := b.since
			p.say(v, []string{v.stamp(at) + " " + b.take()})
		}
	}
}

func (p *plain) flush() {
	if p.out.Len() > 0 && p.err == nil {
		_, p.err = p.w.Write(p.out.Bytes())
	}
	p.out.Reset()
	if p.out.Cap() > 4*maxHeld {
		p.out = bytes.Buffer{}
	}
}

// Close implements Renderer.
func (p *plain) Close() error {
	p.ticker.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.err
	}
	p.closed = true
	for _, v := range p.state.order {
		if v.ended.IsZero() {
			p.endParts(v, 0)
		}
	}
	for len(p.queue) > 0 {
		p.switchTo(p.queue[0])
	}
	p.flush()
	return p.err
}

// ticker calls a function at intervals until it is stopped.
type ticker struct {
	once    sync.Once
	stopped chan struct{}
	ended   chan struct{}
}

func startTicker(d time.Duration, f func()) *ticker {
	t := &ticker{stopped: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-t.stopped:
				return
			case <-tick.C:
				f()
			}
		}
	}()
	return t
}

// stop returns when the function does not run any more.
func (t *ticker) stop() {
	if t == nil {
		return
	}
	t.once.Do(func() { close(t.stopped) })
	<-t.ended
}
