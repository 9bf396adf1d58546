// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"time"
)

// every is how often a progress line is printed where it cannot be updated in place.
const every = 10 * time.Second

// progress prints a line about something that goes on: in place, or now and then one more.
type progress struct {
	out     io.Writer
	inPlace bool // out is a terminal
	printed time.Time
}

// due says whether it is time for the next line.
func (p *progress) due() bool { return p.inPlace || time.Since(p.printed) >= every }

func (p *progress) print(line string) {
	const clear = "\x1b[K"
	if p.printed = time.Now(); p.inPlace {
		fmt.Fprintf(p.out, "\r%s%s", line, clear)
	} else {
		fmt.Fprintln(p.out, line)
	}
}

// end leaves the last line as it is, and begins another one.
func (p *progress) end() {
	if p.inPlace && !p.printed.IsZero() {
		fmt.Fprintln(p.out)
	}
}
