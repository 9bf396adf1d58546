// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"strconv"

	"lvs"
)

func (s *session) listConns(given set) error {
	d, err := s.open(Read)
	if err != nil {
		return err
	}
	p := s.printer(given)
	p.connsTitle()
	for c, err := range d.Conns() {
		if err != nil {
			return err
		}
		p.conn(&c)
	}
	return nil
}

// connsTitle writes what stands above connections.
func (p *printer) connsTitle() {
	engine := ""
	if p.given&optPersistentConn != 0 {
		engine = "        pe name          pe_data"
	}
	fmt.Fprintln(p.w, "IPVS connection entries")
	fmt.Fprintln(p.w, "pro expire state       source             virtual            destination"+engine)
}

// conn writes a connection's line. There may be millions, so it makes nothing that outlives it.
func (p *printer) conn(c *lvs.Conn) {
	b, at := p.line[:0], 0
	ends := func(width int) { // a column; what is too long for it moves the others
		b = padded(b, at+width)
		at = len(b)
	}
	b = append(b, c.Protocol.String()...)
	ends(3)
	seconds := int64(c.Expires.Seconds())
	b = appendTwo(b, seconds/60)
	b = append(b, ':')
	b = appendTwo(b, seconds%60)
	ends(6)
	b = append(b, c.StateName()...)
	ends(11)
	b = p.appendEndpoint(b, c.Client.Addr(), c.Client.Port(), c.Protocol)
	ends(18)
	b = p.appendEndpoint(b, c.Virtual.Addr(), c.Virtual.Port(), c.Protocol)
	ends(18)
	b = p.appendEndpoint(b, c.Server.Addr(), c.Server.Port(), c.Protocol)
	if p.given&optPersistentConn != 0 && c.PE != "" {
		ends(16)
		b = append(b, c.PE...)
		ends(18)
		b = append(b, c.PEData...)
	}
	p.line = append(b, '\n')
	p.w.Write(p.line)
}

// padded fills a line with blanks up to a column, and one more.
func padded(b []byte, column int) []byte {
	for len(b) < column {
		b = append(b, ' ')
	}
	return append(b, ' ')
}

// appendTwo writes a number with two digits at least.
func appendTwo(b []byte, n int64) []byte {
	if n < 10 {
		b = append(b, '0')
	}
	return strconv.AppendInt(b, n, 10)
}
