// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"unicode/utf8"
)

// picture shows the network: the client, the host that stands between, if one does, and the others behind that.
func (s Screen) picture(st *stage) {
	client := []string{st.client.Name, st.names["CIP"].String()}
	var between []string
	for i, name := range strings.Fields(st.between) {
		if i > 0 {
			name += " " + st.names[name].String()
		}
		between = append(between, name)
	}
	type leaf struct{ name, addr, colour string }
	var leaves []leaf
	if st.between == "" || between[0] != st.director.Name {
		leaves = append(leaves, leaf{st.director.Name + ", the VIP", st.names["VIP"].String(), bold})
	}
	for i, one := range st.servers {
		leaves = append(leaves, leaf{one.host.Name, one.addr.String(), serverColour(i)})
	}
	wide := 0
	for _, l := range leaves {
		wide = max(wide, len(l.addr))
	}
	// What is left of the tree, line by line, and on which of them it begins.
	stem := stem(client)
	if len(between) > 0 {
		stem = stem.join(between)
	}
	s.print("")
	heading, more := st.others, ""
	if at := strings.IndexAny(heading, ",:"); at >= 0 {
		heading, more = heading[:at], heading[at:]
	}
	s.print("  %s", s.paint(bold, pad(stem[0], stem.width()+11)+heading)+more)
	for i := 1; i < len(stem)-1; i++ {
		s.print("  %s", stem[i])
	}
	last := pad(stem[len(stem)-1], stem.width())
	blank := strings.Repeat(" ", stem.width())
	for i, l := range leaves {
		branch := blank + "      ├"
		switch {
		case len(leaves) == 1:
			branch = last + " ──────"
		case i == 0:
			branch = last + " ─────┬"
		case i == len(leaves)-1:
			branch = blank + "      └"
		}
		s.print("  %s─── %s", branch, s.paint(l.colour, pad(l.addr, wide)+"  "+l.name))
	}
}

// stem is a column of the picture: what is in its lines.
type stem []string

func (s stem) width() (w int) {
	for _, line := range s {
		w = max(w, utf8.RuneCountInString(line))
	}
	return w
}

// join adds a column that is wired to the second line.
func (s stem) join(column []string) (joined stem) {
	const gap = " ────── "
	width := s.width()
	for i := range max(len(s), len(column)) {
		left, right, wire := "", "", strings.Repeat(" ", utf8.RuneCountInString(gap))
		if i < len(s) {
			left = s[i]
		}
		if i < len(column) {
			right = column[i]
		}
		if i == 1 {
			wire = gap
		}
		joined = append(joined, pad(left, width)+wire+right)
	}
	return joined
}
