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

// Into are those who get what a file has; nil are those who do not ask. What a file of an older version has not, nobody gets.
type Into struct {
	Settings func(lvs.Settings) error
	Rule     func(string) error
	Counters func(Counters) error
	Entry    func(*lvs.Entry) error
}

// Read reads a file whole, and hands out what it has, in its order; the first error, also one of those who get it, ends it.
// All that is not exactly as a Writer would write it is refused.
func Read(in io.Reader, to Into) (Counts, error) {
	r := &reader{in: bufio.NewReaderSize(in, maxLine), to: to}
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
	to        Into
	number    int // of the line
	version   int
	last      part
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
		if l.Version < 1 || l.Version > Version {
			return false, fmt.Errorf("%w: version %d, this one reads 1 to %d", ErrVersion, l.Version, Version)
		}
		r.version = l.Version
		return false, nil
	}
	return r.line(&l)
}

// part is one of a file. They come in this order.
type part int

const (
	head part = iota
	settings
	rules
	counters
	templates
	conns
)

// comes says whether a line of a part can be the next one, and that it is.
func (r *reader) comes(p part, is bool) bool {
	if !is || p < r.last || p == settings && r.last == settings || r.version < 2 && (p == settings || p == counters) {
		return false
	}
	r.last = p
	return true
}

func (r *reader) line(l *line) (over bool, err error) {
	var e *lvs.Entry
	switch {
	case r.comes(settings, l.Settings != nil):
		return false, give(r.to.Settings, settingsOf, l.Settings)
	case r.comes(rules, l.Rule != ""):
		return false, give(r.to.Rule, func(rule string) (string, error) { return rule, nil }, l.Rule)
	case r.comes(counters, l.Counted != nil):
		return false, give(r.to.Counters, (*counted).read, l.Counted)
	case r.comes(templates, l.Template != nil):
		if e, err = l.Template.read(); err != nil {
			return false, fmt.Errorf("template: %w", err)
		}
		if n := len(r.templates); n > 0 && r.templates[n-1] >= e.Number {
			return false, fmt.Errorf("template: %w", wrong("number", e.Number))
		}
		r.templates = append(r.templates, e.Number)
		r.counts.Templates++
	case r.comes(conns, l.Conn != nil):
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
	if r.to.Entry == nil {
		return false, nil
	}
	return false, r.to.Entry(e)
}

// give reads what a line has, and hands it on.
func give[F, T any](to func(T) error, read func(F) (T, error), from F) error {
	v, err := read(from)
	if err != nil || to == nil {
		return err
	}
	return to(v)
}
