// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"strings"

	"lvs"
)

const (
	callLimit   = 255  // bytes of a Call-ID
	callMessage = 2048 // bytes of a datagram that are looked at
	callTries   = 8    // headers without a Call-ID, after which nobody looks for more
)

// call gives the SIP Call-ID of a datagram as the kernel's SIP helper finds it; "" if there is none.
func (p *packet) call() string {
	if p.protocol != lvs.UDP {
		return ""
	}
	text := p.frame[p.transport+udpHeader : p.end]
	rest := string(text[:min(len(text), callMessage)])
	for range callTries {
		var found bool
		if rest, found = afterCallHeader(rest); !found {
			return ""
		}
		if rest, found = afterBlanks(rest); !found || rest[0] != ':' {
			return ""
		}
		if rest, found = afterBlanks(rest[1:]); !found {
			return ""
		}
		id := word(rest)
		if rest = rest[len(id):]; id == "" {
			continue
		}
		if strings.HasPrefix(rest, "@") {
			host := word(rest[1:])
			if rest = rest[1+len(host):]; host == "" {
				continue
			}
			id += "@" + host
		}
		if len(id) > callLimit || rest == "" || !strings.ContainsRune("\r\n", rune(rest[0])) {
			return ""
		}
		return id
	}
	return ""
}

// afterCallHeader gives what follows the name of the next header Call-ID, or i, at the beginning of a line.
func afterCallHeader(s string) (string, bool) {
	for {
		i := strings.IndexAny(s, "\r\n")
		if i < 0 {
			return "", false
		}
		if s = s[i:]; strings.HasPrefix(s, "\r\n") {
			s = s[1:]
		}
		s = s[1:]
		const name = "call-id"
		if len(s) >= len(name) && strings.EqualFold(s[:len(name)], name) && isASCII(s[:len(name)]) {
			return s[len(name):], true
		}
		if len(s) > 0 && s[0]|0x20 == 'i' && (len(s) == 1 || !letter(s[1])) {
			return s[1:], true
		}
	}
}

// afterBlanks skips blanks, which may go on in the next line, and says whether anything follows.
func afterBlanks(s string) (string, bool) {
	const blanks = " \t"
	s = strings.TrimLeft(s, blanks)
	if s != "" && (s[0] == '\r' || s[0] == '\n') {
		if strings.HasPrefix(s, "\r\n") {
			s = s[1:]
		}
		folded := strings.TrimLeft(s[1:], blanks)
		if len(folded) == len(s[1:]) {
			return "", false
		}
		s = folded
	}
	return s, s != ""
}

// word is the longest beginning that a Call-ID may be made of.
func word(s string) string {
	for i := range len(s) {
		if c := s[i]; !letter(c) && (c >= 0x80 || !strings.ContainsRune("0123456789!\"%'()*+-./:<>?[\\]_`{}~", rune(c))) {
			return s[:i]
		}
	}
	return s
}

// letter is one of ASCII or, as the kernel sees them, of Latin-1.
func letter(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 || c >= 0xc0 && c != 0xd7 && c != 0xf7
}

func isASCII(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 }
