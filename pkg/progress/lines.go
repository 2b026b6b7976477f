package progress

import (
	"bytes"
	"time"
	"unicode/utf8"
)

// maxLine bounds a line of output, in bytes: a longer one is shown as several.
const maxLine = 8 << 10

// lineBuffer cuts a stream into lines. A carriage return inside a line starts it anew, as it does on a terminal, so that what a
// progress bar overwrote is not kept.
type lineBuffer struct {
	buf []byte
	// since is when the oldest byte of buf came.
	since time.Time
}

// write adds p and calls emit with each line that is complete, without its end and cleaned.
func (b *lineBuffer) write(now time.Time, p []byte, emit func(string)) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		part := p
		if end >= 0 {
			part = p[:end]
		}
		b.add(now, part, emit)
		if end < 0 {
			return
		}
		p = p[end+1:]
		emit(b.take())
	}
}

// add appends bytes without a line feed, at most maxLine at a time.
func (b *lineBuffer) add(now time.Time, part []byte, emit func(string)) {
	for len(part) > 0 {
		if len(b.buf) == 0 {
			b.since = now
		}
		n := min(len(part), maxLine-len(b.buf))
		b.buf = append(b.buf, part[:n]...)
		part = part[n:]
		text := bytes.TrimRight(b.buf, "\r")
		if i := bytes.LastIndexByte(text, '\r'); i >= 0 {
			b.buf = append(b.buf[:0], b.buf[i+1:]...)
		} else if len(b.buf)-len(text) > 1 {
			b.buf = b.buf[:len(text)+1]
		}
		if len(b.buf) == maxLine {
			rest := append([]byte(nil), b.cutRune()...)
			emit(b.take())
			b.buf = append(b.buf, rest...)
			b.since = now
		}
	}
}

// cutRune takes the beginning of a rune that is not complete yet off the end.
func (b *lineBuffer) cutRune() []byte {
	for i := 1; i < utf8.UTFMax && i <= len(b.buf); i++ {
		at := len(b.buf) - i
		if utf8.RuneStart(b.buf[at]) {
			if !utf8.FullRune(b.buf[at:]) {
				rest := b.buf[at:]
				b.buf = b.buf[:at]
				return rest
			}
			return nil
		}
	}
	return nil
}

// take returns the line so far and forgets it.
func (b *lineBuffer) take() string {
	s := Clean(string(bytes.TrimRight(b.buf, "\r")))
	b.buf = b.buf[:0]
	return s
}

// pending reports whether part of a line is waiting.
func (b *lineBuffer) pending() bool { return len(b.buf) > 0 }
