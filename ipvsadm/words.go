// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import "strings"

// takes says whether an option has a value.
type takes uint8

const (
	nothing takes = iota
	aValue
	maybe // a next word that begins with a dash is not its value
)

// option is a word that begins with a dash: a command if it has a verb, else something about one.
type option struct {
	long   string
	short  byte
	takes  takes
	absent string // value if there is none
	verb   verb
	bit    set // zero if it may be repeated
	apply  func(c *command, value string) error
}

// words takes a command line apart as popt does: options and their values in order, bundled short options,
// everything else put aside. Long options are never abbreviated.
type words struct {
	argv   []string // without the program's name
	next   int
	bundle string   // short options left of the current word
	rest   []string // words that are no options
	plain  bool     // after --
}

// option gives the next option and its value; nil at the end.
func (w *words) option() (*option, string, error) {
	for w.bundle == "" {
		if w.next == len(w.argv) {
			return nil, "", nil
		}
		word := w.argv[w.next]
		w.next++
		switch {
		case w.plain || len(word) < 2 || word[0] != '-':
			w.rest = append(w.rest, word)
		case word == "--":
			w.plain = true
		case word[1] == '-':
			return w.long(word[2:])
		default:
			w.bundle = word[1:]
		}
	}
	o := findOption(func(o *option) bool { return o.short == w.bundle[0] && o.short != 0 })
	if o == nil {
		return nil, "", w.wrong("unknown option")
	}
	w.bundle = w.bundle[1:]
	glued := strings.HasPrefix(w.bundle, "=")
	if o.takes == nothing {
		if glued {
			return nil, "", w.wrong("option does not take an argument")
		}
		return o, "", nil
	}
	if w.bundle == "" {
		return w.separate(o)
	}
	value := strings.TrimPrefix(w.bundle, "=")
	w.bundle = ""
	return o, value, nil
}

func (w *words) long(text string) (*option, string, error) {
	name, value, glued := strings.Cut(text, "=")
	o := findOption(func(o *option) bool { return o.long == name })
	switch {
	case o == nil:
		return nil, "", w.wrong("unknown option")
	case glued && o.takes == nothing:
		return nil, "", w.wrong("option does not take an argument")
	case glued:
		return o, value, nil
	case o.takes == nothing:
		return o, "", nil
	}
	return w.separate(o)
}

// separate takes the value of an option from the next word.
func (w *words) separate(o *option) (*option, string, error) {
	if w.next == len(w.argv) {
		if o.takes == maybe {
			return o, o.absent, nil
		}
		return nil, "", w.wrong("missing argument")
	}
	if o.takes == maybe && strings.HasPrefix(w.argv[w.next], "-") {
		return o, o.absent, nil
	}
	w.next++
	return o, w.argv[w.next-1], nil
}

// last is the last word taken, which is what messages complain about.
func (w *words) last() string { return w.argv[w.next-1] }

func (w *words) wrong(text string) error {
	return &stop{code: exitError, text: w.last() + ": " + text}
}

func findOption(is func(*option) bool) *option {
	for i := range options {
		if is(&options[i]) {
			return &options[i]
		}
	}
	return nil
}
