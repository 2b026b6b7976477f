package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// clock is a time that only the test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func (c *clock) after(d time.Duration) time.Time {
	c.t = c.t.Add(d)
	return c.t
}

func newClock() *clock { return &clock{time.Unix(1000, 0)} }

func TestPlain(t *testing.T) {
	c := newClock()
	var w bytes.Buffer
	p := newPlain(&w, c.now)
	ev := func(d time.Duration, e Event) {
		e.Time = c.after(d)
		p.Event(e)
	}
	ev(0, Event{Vertex: "a", Kind: Started, Name: "[1/3] FROM debian"})
	ev(0, Event{Vertex: "b", Kind: Started, Name: "[2/3] RUN make"})
	ev(time.Second, Event{Vertex: "a", Kind: Counted, Name: "sha256:12", Current: 10, Total: 2e6})
	ev(100*time.Millisecond, Event{Vertex: "b", Kind: Output, Stream: 1, Data: []byte("waits\n")})
	ev(5*time.Second, Event{Vertex: "a", Kind: Counted, Name: "sha256:12", Current: 1e6, Total: 2e6})
	ev(time.Second, Event{Vertex: "a", Kind: Counted, Name: "sha256:12", Current: 2e6, Total: 2e6})
	ev(0, Event{Vertex: "a", Kind: Counted, Name: "sha256:12", Current: 2e6, Total: 2e6})
	ev(0, Event{Vertex: "a", Kind: Completed})
	ev(0, Event{Vertex: "b", Kind: Output, Stream: 2, Data: []byte("cc -o he")})
	ev(0, Event{Vertex: "b", Kind: Output, Stream: 2, Data: []byte("llo\r\n10%\r20%\r30%\nrest")})
	ev(0, Event{Vertex: "c", Kind: Started, Name: "cached one"})
	ev(0, Event{Vertex: "c", Kind: Completed, Cached: true})
	ev(0, Event{Vertex: "b", Kind: Warned, Warning: &Warning{Rule: "Rule", Message: "message", First: 3, Last: 3}})
	ev(time.Second, Event{Vertex: "b", Kind: Completed, Err: errors.New("exit code 2\nsecond line")})
	ev(0, Event{Vertex: "d", Kind: Started, Name: "stopped"})
	ev(0, Event{Vertex: "d", Kind: Completed, Err: fmt.Errorf("waiting: %w", context.Canceled)})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	want := `#1 [1/3] FROM debian
#1 sha256:12 1MB / 2MB 5.1s
#1 sha256:12 2MB / 2MB 6.1s done
#1 DONE 7.1s

#2 [2/3] RUN make
#2 1.10 waits
#2 7.10 cc -o hello
#2 7.10 30%
#2 WARN: Rule: message (line 3)
#2 7.10 rest
#2 ERROR: exit code 2
#2 second line

#3 cached one
#3 CACHED

#4 stopped
#4 CANCELED
`
	if got := w.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	p.Event(Event{Vertex: "late", Kind: Started})
	if w.String() != want {
		t.Error("written after Close")
	}
}

// What waits for another vertex, or for the end of its line, is shown after a while.
func TestPlainTick(t *testing.T) {
	c := newClock()
	var w bytes.Buffer
	p := newPlain(&w, c.now)
	p.Event(Event{Vertex: "a", Kind: Started, Name: "one", Time: c.t})
	p.Event(Event{Vertex: "b", Kind: Started, Name: "two", Time: c.t})
	p.Event(Event{Vertex: "a", Kind: Output, Data: []byte("Password:"), Time: c.t})
	p.Event(Event{Vertex: "b", Kind: Output, Data: []byte("hello\n"), Time: c.t})
	c.after(time.Second)
	p.tick()
	if got := w.String(); got != "#1 one\n" {
		t.Errorf("too early: %q", got)
	}
	c.after(3 * time.Second)
	p.tick()
	p.Event(Event{Vertex: "a", Kind: Completed, Time: c.t})
	p.Event(Event{Vertex: "b", Kind: Completed, Time: c.t})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	want := "#1 one\n#1 0.000 Password:\n#1 ...\n\n#2 two\n#2 0.000 hello\n#2 DONE 4.0s\n\n#1 one\n#1 DONE 4.0s\n"
	if got := w.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// hostile are things that no terminal may get to see, or that must not do harm there.
func hostile() []string {
	list := []string{
		"\x1b[2J\x1b[H", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "\x1b]52;c;ZXZpbA==\x07",
		"\x1bP+q544e\x1b\\", "\x1b[6n", "\x1b[?2004h", "\x1b[200~rm -rf /\n\x1b[201~", "\x1bc", "\x1b(0lqqk", "\x1b#8", "\x1b[5i", "\x1b]0;never ends",
		"\x1b[", "\x1b", "\x1bP", "\x9b31m", "\u009b31m", "\u0090q\u009c", "\x07\x07", "a\bb\b\b", "\x0c\x0b", "\x00nul", "\x7f", "\x0e\x0f", "\x05",
		"over\rwritten", "\r\r\r", "\r\n\r\n", "::set-output name=a::b\n::add-mask::x", "##vso[task.setvariable]x", "\u202egnp.exe", "\u2066x\u2069",
		"\ufeffbom", "\xff\xfe\xc0\xaf", "\xf0\x9f", "\xed\xa0\x80", strings.Repeat("\x1b[", 5000), strings.Repeat("x", 50000), strings.Repeat("é", 20000),
		"\x1b]1337;File=:AAAA\x07", "\x1b[>0c\x1b[c", "\x1b_APC\x1b\\", "\x1b^PM\x1b\\", "\u2028\u2029", "\U000e0041tag", "日本語 ok ‍", "\x1b[1;\x1b[2Jm",
	}
	for c := byte(0x20); c < 0x7f; c++ {
		list = append(list, "\x1b"+string(rune(c))+"A;1m", "\x1b["+string(rune(c)))
	}
	return list
}

func feed(s Sink, text string) {
	at := time.Unix(1000, 0)
	s.Event(Event{Vertex: text, Kind: Started, Name: text, Time: at})
	s.Event(Event{Vertex: text, Kind: Output, Stream: 1, Data: []byte(text), Time: at})
	s.Event(Event{Vertex: text, Kind: Output, Stream: 2, Data: []byte(text + "\n" + text), Time: at})
	s.Event(Event{Vertex: text, Kind: Counted, Name: text, Current: 1, Total: 1, Time: at})
	s.Event(Event{Vertex: text, Kind: Warned, Warning: &Warning{Rule: text, Message: text, File: text, URL: text, First: 1}, Time: at})
	s.Event(Event{Vertex: text, Kind: Completed, Err: errors.New(text), Time: at})
	s.Event(Event{Vertex: text + "2", Kind: Started, Name: text, Time: at})
	s.Event(Event{Vertex: text + "2", Kind: Output, Stream: 1, Data: []byte(text), Time: at})
	s.Event(Event{Vertex: text + "2", Kind: Counted, Name: text, Current: 1, Total: 2, Time: at})
}

// unsafe returns the first rune of s that is not printable, no line feed and no tab; "" if there is none.
func unsafeRune(s string) string {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return fmt.Sprintf("byte %#x at %d", s[i], i)
			}
		}
		if r != '\n' && !showable(r) {
			return fmt.Sprintf("%q at %d", r, i)
		}
	}
	return ""
}

func TestHostilePlain(t *testing.T) {
	for _, text := range hostile() {
		var w bytes.Buffer
		p := newPlain(&w, newClock().now)
		feed(p, text)
		p.tick()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if bad := unsafeRune(w.String()); bad != "" {
			t.Errorf("%.40q: A CONTROL CHARACTER WAS WRITTEN: %s", text, bad)
		}
		for _, l := range strings.Split(w.String(), "\n") {
			if l != "" && !regexp.MustCompile(`^#\d+ `).MatchString(l) {
				t.Errorf("%.40q: a line without a prefix: %.80q", text, l)
			}
			if len(l) > 4*maxLine+100 && !strings.Contains(l, "ERROR") && len(l) > 20*len(text) {
				t.Errorf("%.40q: a line of %d bytes", text, len(l))
			}
		}
	}
}

// own are the sequences that TTY itself may write.
var own = regexp.MustCompile(`\x1b\[(\?7[lh]|\d+A|J|2m|3[134]m|0m)|\r\x1b\[J`)

func TestHostileTTY(t *testing.T) {
	for _, text := range hostile() {
		var w bytes.Buffer
		p := newTTY(&w, TTYOptions{}, newClock().now)
		feed(p, text)
		p.tick()
		p.tick()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if bad := unsafeRune(own.ReplaceAllString(w.String(), "")); bad != "" {
			t.Errorf("%.40q: A CONTROL CHARACTER WAS WRITTEN: %s", text, bad)
		}
	}
}

func TestHostileJSON(t *testing.T) {
	for _, text := range hostile() {
		var w bytes.Buffer
		p := RawJSON(&w)
		feed(p, text)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if bad := unsafeRune(w.String()); bad != "" {
			t.Errorf("%.40q: A CONTROL CHARACTER WAS WRITTEN: %s", text, bad)
		}
		var got []byte
		for _, l := range strings.Split(strings.TrimSpace(w.String()), "\n") {
			var s jsonStatus
			if err := json.Unmarshal([]byte(l), &s); err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			for _, log := range s.Logs {
				got = append(got, log.Data...)
			}
			for _, v := range s.Vertexes {
				if strings.ContainsFunc(v.Name, func(r rune) bool { return !showable(r) }) {
					t.Errorf("vertex name %q", v.Name)
				}
			}
		}
		if string(got) != text+text+"\n"+text+text {
			t.Errorf("%.40q: the output was changed", text)
		}
	}
}

func TestRawJSON(t *testing.T) {
	var w bytes.Buffer
	r := RawJSON(&w)
	ctx := With(context.Background(), r)
	v := Start(ctx, "id", "RUN <x> & y")
	v.Count("layer", 5, 10)
	v.Warn(Warning{Rule: "R", Message: "m", File: "Dockerfile", First: 2, Last: 4, Source: []byte("FROM x")})
	v.Done(errors.New("no"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(w.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines: %s", len(lines), w.String())
	}
	for i, want := range []string{
		`^\{"vertexes":\[\{"digest":"sha256:[0-9a-f]{64}","name":"RUN .*","started":"[^"]+"\}\]\}$`,
		`^\{"statuses":\[\{"id":"layer","vertex":"sha256:[^"]+","total":10,"current":5,"timestamp":"[^"]+","started":"[^"]+"\}\]\}$`,
		`^\{"warnings":\[\{"vertex":"sha256:[^"]+","level":1,"short":"UjogbSAobGluZSAyKQ==",` +
			`"sourceInfo":\{"filename":"Dockerfile","data":"RlJPTSB4"\},"range":\[\{"start":\{"line":2\},"end":\{"line":4\}\}\]\}\]\}$`,
		`^\{"vertexes":\[\{"digest":"sha256:[^"]+","name":"RUN .*","started":"[^"]+","completed":"[^"]+","error":"no"\}\]\}$`,
	} {
		if !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("line %d is %s, want %s", i, lines[i], want)
		}
	}
}

// screen is a terminal that understands what TTY writes.
type screen struct {
	lines []string
	row   int
}

func (s *screen) Write(p []byte) (int, error) {
	for rest := string(p); rest != ""; {
		if m := regexp.MustCompile(`^\x1b\[(\d+)A`).FindStringSubmatch(rest); m != nil {
			n, _ := strconv.Atoi(m[1])
			if s.row -= n; s.row < 0 {
				return 0, errors.New("the cursor went above what was drawn")
			}
			rest = rest[len(m[0]):]
			continue
		}
		if strings.HasPrefix(rest, "\r\x1b[J") {
			s.lines = s.lines[:s.row]
			rest = rest[4:]
			continue
		}
		if m := regexp.MustCompile(`^\x1b\[(\?7[lh]|\d*m)`).FindString(rest); m != "" {
			rest = rest[len(m):]
			continue
		}
		line, more, ok := strings.Cut(rest, "\n")
		if !ok {
			return 0, fmt.Errorf("a line without its end: %q", rest)
		}
		s.lines = append(s.lines[:s.row], regexp.MustCompile(`\x1b\[\d*m`).ReplaceAllString(line, ""))
		s.row++
		rest = more
	}
	return len(p), nil
}

func TestTTY(t *testing.T) {
	c := newClock()
	s := &screen{}
	p := newTTY(s, TTYOptions{Size: func() (int, int) { return 40, 12 }}, c.now)
	p.Event(Event{Vertex: "a", Kind: Started, Name: "[1/2] FROM debian", Time: c.t})
	p.Event(Event{Vertex: "b", Kind: Started, Name: "[2/2] RUN a very long command that has no room", Time: c.t})
	p.Event(Event{Vertex: "a", Kind: Counted, Name: "sha256:1", Current: 5, Total: 10, Time: c.t})
	for i := range 20 {
		p.Event(Event{Vertex: "b", Kind: Output, Data: fmt.Appendf(nil, "line %d\n", i), Time: c.t})
	}
	p.Event(Event{Vertex: "b", Kind: Output, Data: []byte("50%\r60%"), Time: c.t})
	c.after(1500 * time.Millisecond)
	p.tick()
	want := []string{
		"[+] Building 1.5s (0/2)",
		" => [1/2] FROM debian              1.5s",
		columns(" => => sha256:1", "5B / 10B [==========          ] 1.5s", 40),
		" => [2/2] RUN a very long command… 1.5s",
		" => => # line 17", " => => # line 18", " => => # line 19", " => => # 60%",
	}
	if got := strings.Join(s.lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	p.Event(Event{Vertex: "a", Kind: Completed, Cached: true, Time: c.t})
	p.Event(Event{Vertex: "b", Kind: Completed, Err: errors.New("exit code 1"), Time: c.t})
	p.tick()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	want = []string{
		" => CACHED [1/2] FROM debian       1.5s",
		" => ERROR [2/2] RUN a very long c… 1.5s",
		"[+] Building 1.5s (2/2) FAILED",
	}
	if got := strings.Join(s.lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

// With more steps than rows nothing is drawn that would scroll.
func TestTTYManySteps(t *testing.T) {
	c := newClock()
	s := &screen{}
	p := newTTY(s, TTYOptions{Size: func() (int, int) { return 30, 6 }, NoColor: true}, c.now)
	for i := range 50 {
		p.Event(Event{Vertex: fmt.Sprint(i), Kind: Started, Name: "step", Time: c.t})
		p.Event(Event{Vertex: fmt.Sprint(i), Kind: Output, Data: []byte("x\n"), Time: c.t})
	}
	p.tick()
	if len(s.lines) > 5 {
		t.Errorf("%d lines on 6 rows", len(s.lines))
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRecorder(t *testing.T) {
	r := NewRecorder(Quiet(), 3)
	ctx := With(context.Background(), r)
	v := Start(ctx, "x", "RUN x")
	for i := range 10 {
		fmt.Fprintf(v.Stdout(), "line %d\n", i)
	}
	fmt.Fprint(v.Stderr(), "\x1b[31mlast")
	v.Warn(Warning{Message: "w"})
	v.Done(errors.New("boom"))
	Start(ctx, "y", "fine").Done(nil)
	f := r.Failures()
	if len(f) != 1 || f[0].Name != "RUN x" || strings.Join(f[0].Tail, ",") != "line 8,line 9,last" {
		t.Errorf("failures %+v", f)
	}
	if len(r.Warnings()) != 1 || len(r.tails) != 0 {
		t.Errorf("warnings %v, tails %v", r.Warnings(), r.tails)
	}
}

// A line without an end costs bounded memory in every renderer and loses nothing in plain.
func TestFlood(t *testing.T) {
	var w countWriter
	for _, s := range []Renderer{Plain(&w), newTTY(&w, TTYOptions{}, time.Now), Quiet()} {
		rec := NewRecorder(s, 10)
		v := Start(With(context.Background(), rec), "v", "flood")
		chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range 640 { // 40 MiB
			if _, err := v.Stdout().Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
			t.Errorf("the heap grew by %d bytes", grown)
		}
		v.Done(nil)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if w < 40<<20 {
		t.Errorf("only %d bytes were shown of 40 MiB", w)
	}
}

type countWriter int64

func (c *countWriter) Write(p []byte) (int, error) {
	*c += countWriter(len(p))
	return len(p), nil
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		for _, r := range []Renderer{Plain(&bytes.Buffer{}), TTY(&bytes.Buffer{}, TTYOptions{}), RawJSON(&bytes.Buffer{}), Quiet()} {
			Start(With(context.Background(), r), "a", "b")
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWriteErrors(t *testing.T) {
	for _, r := range []Renderer{Plain(brokenWriter{}), TTY(brokenWriter{}, TTYOptions{}), RawJSON(brokenWriter{})} {
		v := Start(With(context.Background(), r), "a", "b")
		v.Done(nil)
		if err := r.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%T: Close gave %v", r, err)
		}
	}
}

func TestNew(t *testing.T) {
	var w bytes.Buffer
	for mode, want := range map[string]string{"": "*progress.plain", "auto": "*progress.plain", "plain": "*progress.plain",
		"rawjson": "*progress.rawJSON", "quiet": "progress.quiet", "tty": "", "nope": ""} {
		r, err := New(mode, &w, Options{Term: "xterm"})
		if (err != nil) != (want == "") {
			t.Errorf("New(%q): %v", mode, err)
			continue
		}
		if err == nil {
			if got := fmt.Sprintf("%T", r); got != want {
				t.Errorf("New(%q) is a %s", mode, got)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range hostile() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if bad := unsafeRune(got); bad != "" || strings.Contains(got, "\n") {
			t.Errorf("Clean(%q) = %q has %s", s, got, bad)
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean is not idempotent: %q, then %q", got, again)
		}
	})
}
