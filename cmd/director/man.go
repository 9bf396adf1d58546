// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

//go:generate sh -c "go run . man >director.8.new && mv director.8.new director.8"

type manVerb struct{}

// Run prints the manual page.
func (manVerb) Run(k *kong.Kong) error {
	_, err := fmt.Print(manual(k.Model))
	return err
}

const manualHead = `.\" SPDX-License-Identifier: Apache-2.0
.\" Made by go generate out of the help of the program.
.TH DIRECTOR 8 "" director "System Administration"
.SH NAME
director \- the Linux Virtual Server in one program
.SH SYNOPSIS
.B director
.I VERB
.RI [ options ]
.SH DESCRIPTION
A director owns virtual addresses and spreads their connections over real servers. Services and servers are managed with
.BR ipvsadm (8),
which is a link to this program; the verbs below do what ipvsadm does not.
.SH VERBS
`

const manualTail = `.SH FILES
.TP
.I /sys/fs/bpf/director
A folder for each network namespace, with the programs, services and connections that the kernel has.
.TP
.I /run/director
A file for each change that waits for
.BR "director confirm" .
.SH ENVIRONMENT
.TP
.B NO_COLOR
If it is set, nothing is coloured.
.SH EXIT STATUS
0, or 1 after an error; that of ipvsadm for save and restore;
.B director drain
has 3 if connections were left at the deadline.
.SH SEE ALSO
.BR ipvsadm (8),
.BR ipvsadm\-save (8),
.BR ipvsadm\-restore (8)
`

// manual gives the manual page, in the language of man.
func manual(model *kong.Application) string {
	var b strings.Builder
	b.WriteString(manualHead)
	for _, leaf := range model.Leaves(true) {
		fmt.Fprintf(&b, ".SS \"director %s\"\n", roff(leaf.Summary()))
		writeProse(&b, leaf.Help+"\n\n"+leaf.Detail)
		for _, f := range leaf.Flags {
			if !f.Hidden && f.Name != "help" {
				fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(f.String()), roff(f.Help))
			}
		}
	}
	b.WriteString(manualTail)
	return b.String()
}

// writeProse writes paragraphs; lines that are set in are left as they are.
func writeProse(b *strings.Builder, text string) {
	example := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if in := strings.HasPrefix(line, "  "); in != example {
			example = in
			b.WriteString(map[bool]string{true: ".RS 2\n.nf\n", false: ".fi\n.RE\n"}[in])
		}
		if line = strings.TrimPrefix(line, "  "); line == "" {
			b.WriteString(".PP\n")
			continue
		}
		b.WriteString(roff(line) + "\n")
	}
	if example {
		b.WriteString(".fi\n.RE\n")
	}
}

// roff writes a line of text so that none of it is a request.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", "'").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
