package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// logLine is a line of a container's output, or what there is of one.
type logLine struct {
	stream byte
	text   []byte
}

// tail shows the last lines of a log, and leaves the file behind the last whole frame.
func (in invocation) tail(log *os.File, n int) error {
	var last []logLine
	for {
		stream, data, err := readFrame(log)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		for line := range bytes.SplitAfterSeq(data, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			// A line may come in several pieces.
			if at := len(last) - 1; at >= 0 && last[at].stream == stream && !bytes.HasSuffix(last[at].text, []byte("\n")) {
				last[at].text = append(last[at].text, line...)
				continue
			}
			last = append(last, logLine{stream, bytes.Clone(line)})
			last = last[max(0, len(last)-n):]
		}
	}
	for _, l := range last {
		w := in.stdout
		if l.stream != 1 {
			w = in.stderr
		}
		if _, err := w.Write(l.text); err != nil {
			return err
		}
	}
	return nil
}

// readFrame reads what frameWriter wrote. Where that is still being done it goes back, and says io.EOF.
func readFrame(log *os.File) (stream byte, data []byte, err error) {
	at, err := log.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, nil, err
	}
	var head [8]byte
	_, err = io.ReadFull(log, head[:])
	if err == nil {
		data = make([]byte, binary.BigEndian.Uint32(head[4:]))
		_, err = io.ReadFull(log, data)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		if _, err := log.Seek(at, io.SeekStart); err != nil {
			return 0, nil, err
		}
		return 0, nil, io.EOF
	}
	return head[0], data, err
}
