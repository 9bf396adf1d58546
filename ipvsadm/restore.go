// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"lvs"
)

// restore executes the command lines of standard input, all in one change of the table. A line that is refused
// by the table or cannot be read is reported, and the rest goes on; one that ipvsadm itself refuses ends the
// restore, and those before it count. The outcome is that of the last line. With clear the table is emptied first.
func (s *session) restore(clear bool) error {
	if s.pending != nil {
		return tryHelp(s.program) // a restore in a restore
	}
	input, err := io.ReadAll(s.env.Stdin)
	if err != nil {
		return err
	}
	lines := commandLines(string(input), s.program)
	if len(lines) == 0 && !clear {
		return nil
	}
	var end error
	err = s.change(func(t *lvs.Table) error {
		if clear {
			t.Clear()
		}
		s.pending = t
		end = s.lines(lines)
		s.pending = nil
		return nil
	})
	if err != nil {
		return err
	}
	return end
}

// restoreScript is the shell script ipvsadm-restore: it clears the table first, and leaves out lines that begin
// with #.
func (s *session) restoreScript() error {
	input, err := io.ReadAll(s.env.Stdin)
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(input)) {
		if !strings.HasPrefix(line, "#") {
			kept.WriteString(line)
		}
	}
	s.env.Stdin = strings.NewReader(kept.String())
	return s.restore(true)
}

// lines executes command lines until one of them ends it, and gives the outcome of the last.
func (s *session) lines(lines [][]string) error {
	var err error
	for i, argv := range lines {
		err = s.line(argv)
		if end := (*stop)(nil); errors.As(err, &end) && end.final {
			return err
		}
		if err != nil && i < len(lines)-1 {
			fmt.Fprintln(s.env.Stderr, err)
		}
	}
	return err
}

// commandLines takes the input of a restore apart. There are no quotes, and the word ipvsadm is dropped wherever
// it stands.
func commandLines(input, program string) [][]string {
	var lines [][]string
	for line := range strings.Lines(input) {
		argv := []string{program}
		for word := range strings.FieldsFuncSeq(line, isBlank) {
			if word != "ipvsadm" {
				argv = append(argv, word)
			}
		}
		if len(argv) > 1 {
			lines = append(lines, argv)
		}
	}
	return lines
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' }
