package layer

import (
	"bytes"
	"fmt"
)

// ForbiddenError is a layer that was to hold what it must not (Writer.Forbidden).
type ForbiddenError struct {
	// Path is the entry's, Index which of Writer.Forbidden it has.
	Path  string
	Index int
}

func (e *ForbiddenError) Error() string { return fmt.Sprintf("%q holds what it must not", e.Path) }

// searcher looks for byte sequences in a stream, also where they lie across two of its pieces.
type searcher struct {
	wanted  [][]byte
	longest int
	// tail is the end of what has gone through, as far as something may begin in it.
	tail []byte
}

func newSearcher(forbidden [][]byte) *searcher {
	s := &searcher{wanted: forbidden}
	for _, f := range forbidden {
		s.longest = max(s.longest, len(f))
	}
	return s
}

// find returns the index of a sequence that is in data, -1 for none.
func (s *searcher) find(data []byte) int {
	for i, f := range s.wanted {
		if len(f) > 0 && bytes.Contains(data, f) {
			return i
		}
	}
	return -1
}

// next is find for the next piece of a stream.
func (s *searcher) next(p []byte) int {
	if s.longest == 0 {
		return -1
	}
	data := append(s.tail, p...)
	i := s.find(data)
	s.tail = append(s.tail[:0], data[max(0, len(data)-s.longest+1):]...)
	return i
}

// entry looks through everything of an entry but its content.
func (s *searcher) entry(e *Entry) error {
	texts := []string{e.Path, e.Linkname}
	for k, v := range e.Xattrs {
		texts = append(texts, k, v)
	}
	for _, text := range texts {
		if i := s.find([]byte(text)); i >= 0 {
			return &ForbiddenError{Path: e.Path, Index: i}
		}
	}
	s.tail = s.tail[:0]
	return nil
}
