// SPDX-License-Identifier: Apache-2.0

package saved

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"lvs"
)

// The reasons why a file is refused.
var (
	ErrFormat     = errors.New("not a file of director save --conns")
	ErrVersion    = errors.New("a file of another version of director")
	ErrUnfinished = errors.New("the file ends before its end: it is half written")
)

// maxLine is longer than any line that is written.
const maxLine = 1 << 16

// Read reads a file whole, and hands out what it has, in its order; the first error, also one of those who get it, ends it.
// All that is not exactly as a Writer would write it is refused.
func Read(in io.Reader, rule func(string) error, entry func(*lvs.Entry) error) (Counts, error) {
	r := &reader{in: bufio.NewReaderSize(in, maxLine), rule: rule, entry: entry}
	for {
		over, err := r.next()
		if err != nil && r.number > 0 && !errors.Is(err, ErrUnfinished) {
			err = fmt.Errorf("line %d: %w", r.number, err)
		}
		if err != nil || over {
			return r.counts, err
		}
	}
}

type reader struct {
	in        *bufio.Reader
	rule      func(string) error
	entry     func(*lvs.Entry) error
	number    int // of the line
	counts    Counts
	templates []uint32 // their numbers
}

// next reads a line; over says that the file has ended well.
func (r *reader) next() (over bool, err error) {
	text, err := r.in.ReadSlice('\n')
	switch {
	case err == io.EOF && r.number == 0:
		return false, ErrFormat
	case err == io.EOF:
		return false, ErrUnfinished
	case errors.Is(err, bufio.ErrBufferFull):
		return false, ErrFormat
	case err != nil:
		return false, err
	}
	r.number++
	var l line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil || d.More() {
		return false, fmt.Errorf("%w (%v)", ErrFormat, err)
	}
	if r.number == 1 {
		if l.Director != Format {
			return false, ErrFormat
		}
		if l.Version != Version {
			return false, fmt.Errorf("%w: version %d, this one reads %d", ErrVersion, l.Version, Version)
		}
		return false, nil
	}
	return r.line(&l)
}

func (r *reader) line(l *line) (over bool, err error) {
	var e *lvs.Entry
	switch {
	case l.Rule != "" && r.counts == Counts{}:
		return false, r.rule(l.Rule)
	case l.Template != nil && r.counts.Conns == 0:
		if e, err = l.Template.read(); err != nil {
			return false, fmt.Errorf("template: %w", err)
		}
		if n := len(r.templates); n > 0 && r.templates[n-1] >= e.Number {
			return false, fmt.Errorf("template: %w", wrong("number", e.Number))
		}
		r.templates = append(r.templates, e.Number)
		r.counts.Templates++
	case l.Conn != nil:
		if e, err = l.Conn.read(); err != nil {
			return false, fmt.Errorf("connection: %w", err)
		}
		if _, there := slices.BinarySearch(r.templates, e.Controller); !there && e.Controller != lvs.NoTemplate {
			return false, fmt.Errorf("connection: %w", wrong("template", e.Controller))
		}
		r.counts.Conns++
	case l.End != nil:
		if *l.End != r.counts {
			return false, fmt.Errorf("%w: %d templates and %d connections, but its end tells of %d and %d", ErrUnfinished,
				r.counts.Templates, r.counts.Conns, l.End.Templates, l.End.Conns)
		}
		if _, err := r.in.ReadByte(); err != io.EOF {
			return false, fmt.Errorf("%w: it goes on behind its end", ErrFormat)
		}
		return true, nil
	default:
		return false, ErrFormat
	}
	return false, r.entry(e)
}
