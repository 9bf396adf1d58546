// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Replay is a load that was written down.
type Replay struct {
	conns   []Conn
	clients []netip.Addr
	mean    time.Duration // that a connection lasts
	gap     time.Duration // between two, on average
}

// ReadReplay reads a connection a line: when it begins, the client's address with or without a port, how long it lasts,
// and, if there are several, its destination; separated by commas or blanks. Times are seconds, or have a unit ("1m30s").
// Lines need not be in order. Empty lines, those that begin with a #, and a heading are left out.
func ReadReplay(in io.Reader) (*Replay, error) {
	r, sum := &Replay{}, 0.0
	numbers := map[netip.Addr]int32{}
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		fields := strings.FieldsFunc(lines.Text(), func(c rune) bool { return c == ',' || c == ' ' || c == '\t' || c == ';' || c == '\r' })
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") || len(r.conns) == 0 && strings.EqualFold(fields[0], "time") {
			continue
		}
		c, err := readConn(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		number, known := numbers[c.Client.Addr()]
		if !known {
			number = int32(len(r.clients))
			numbers[c.Client.Addr()] = number
			r.clients = append(r.clients, c.Client.Addr())
		}
		c.client = number
		r.conns = append(r.conns, c)
		sum += c.Lasts.Seconds()
		if len(r.conns) > maxReplay || len(r.clients) > maxClients {
			return nil, fmt.Errorf("line %d: more than %d connections or %d clients", n, maxReplay, maxClients)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(r.conns) == 0 {
		return nil, errors.New("no connections in it")
	}
	slices.SortStableFunc(r.conns, func(a, b Conn) int { return int(min(max(a.At-b.At, -1), 1)) })
	r.mean = seconds(sum / float64(len(r.conns)))
	r.gap = (r.conns[len(r.conns)-1].At - r.conns[0].At) / time.Duration(len(r.conns))
	return r, nil
}

const maxReplay = 1 << 26

func readConn(fields []string) (c Conn, err error) {
	if len(fields) < 3 || len(fields) > 4 {
		return c, fmt.Errorf("%d fields: a line is TIME,CLIENT[:PORT],DURATION[,DESTINATION]", len(fields))
	}
	if c.At, err = readTime(fields[0]); err != nil {
		return c, err
	}
	if c.Client, err = readEndpoint(fields[1]); err != nil {
		return c, err
	}
	if c.Lasts, err = readTime(fields[2]); err != nil {
		return c, err
	}
	c.Virtual = virtual(0)
	if len(fields) == 4 {
		c.Virtual, err = readEndpoint(fields[3])
	}
	return c, err
}

func readTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		var s float64
		if s, err = strconv.ParseFloat(text, 64); !(s >= 0 && s <= longest) {
			err = errors.New("out of range")
		}
		d = seconds(s)
	}
	if err != nil || d < 0 || d > seconds(longest) {
		return 0, fmt.Errorf("%q is no time: seconds such as 12.5, or with a unit such as 1m30s", text)
	}
	return d, nil
}

func readEndpoint(text string) (netip.AddrPort, error) {
	if both, err := netip.ParseAddrPort(text); err == nil {
		return netip.AddrPortFrom(both.Addr().WithZone(""), both.Port()), nil
	}
	addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not of the form ADDRESS or ADDRESS:PORT", text)
	}
	return netip.AddrPortFrom(addr.WithZone(""), 0), nil
}
