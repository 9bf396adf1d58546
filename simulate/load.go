// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Load is a row of connections: drawn by chance, or replayed.
type Load struct {
	Arrivals     Arrivals
	Durations    Durations
	Conns        int
	Clients      int
	Destinations int // virtual addresses: dh, lblc and lblcr go by them
	Replay       *Replay
}

func (l Load) size() int {
	if l.Replay != nil {
		return len(l.Replay.conns)
	}
	return l.Conns
}

// Conn is a connection of a load.
type Conn struct {
	At      time.Duration
	Lasts   time.Duration
	Client  netip.AddrPort
	Virtual netip.AddrPort
	client  int32 // number of the client's address
}

// Arrivals says when connections begin.
type Arrivals struct {
	text  string
	kind  string
	every float64 // seconds between two connections, on average
	burst int     // connections that come at once
}

const arrivalForms = "poisson:200/s, constant:200/s, or burst:200/s:50 for 50 at once, 200 a second on average"

// UnmarshalText reads KIND:RATE, in which RATE is a number with /s, /m or /h.
func (a *Arrivals) UnmarshalText(text []byte) error {
	wrong := fmt.Errorf("%q is not of the form %s", text, arrivalForms)
	fields := strings.Split(string(text), ":")
	if len(fields) < 2 {
		return wrong
	}
	amount, unit, _ := strings.Cut(fields[1], "/")
	n, err := strconv.ParseFloat(amount, 64)
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	if err != nil || seconds == 0 || !(n > 0) || math.IsInf(n, 0) {
		return wrong
	}
	*a = Arrivals{text: string(text), kind: fields[0], every: seconds / n, burst: 1}
	switch {
	case (a.kind == "poisson" || a.kind == "constant") && len(fields) == 2:
	case a.kind == "burst" && len(fields) == 3:
		if a.burst, err = strconv.Atoi(fields[2]); err != nil || a.burst < 1 {
			return wrong
		}
	default:
		return wrong
	}
	return nil
}

func (a Arrivals) String() string { return a.text }

// Durations says how long connections last.
type Durations struct {
	text  string
	kind  string
	mean  float64 // seconds
	shape float64 // of pareto
}

const durationForms = "exp:3s, const:3s, or pareto:3s (pareto:3s:1.2 for a heavier tail than that of 1.5)"

// UnmarshalText reads KIND:MEAN, in which MEAN is a time.
func (d *Durations) UnmarshalText(text []byte) error {
	wrong := fmt.Errorf("%q is not of the form %s", text, durationForms)
	fields := strings.Split(string(text), ":")
	if len(fields) < 2 {
		return wrong
	}
	mean, err := time.ParseDuration(fields[1])
	if err != nil || mean < 0 {
		return wrong
	}
	*d = Durations{text: string(text), kind: fields[0], mean: mean.Seconds(), shape: 1.5}
	switch {
	case (d.kind == "exp" || d.kind == "const" || d.kind == "pareto") && len(fields) == 2:
	case d.kind == "pareto" && len(fields) == 3:
		if d.shape, err = strconv.ParseFloat(fields[2], 64); err != nil || !(d.shape > 1) || math.IsInf(d.shape, 0) {
			return fmt.Errorf("%q: the shape of pareto is a number above 1", text)
		}
	default:
		return wrong
	}
	return nil
}

func (d Durations) String() string { return d.text }

// longest is what a drawn time is cut to: the tail of pareto has no end, and time.Duration has.
const longest = 1e8 // seconds

func seconds(s float64) time.Duration { return time.Duration(min(s, longest) * float64(time.Second)) }

func (d Durations) draw(chance *rand.Rand) time.Duration {
	switch d.kind {
	case "exp":
		return seconds(d.mean * chance.ExpFloat64())
	case "pareto":
		least := d.mean * (d.shape - 1) / d.shape
		return seconds(least * math.Pow(1-chance.Float64(), -1/d.shape))
	}
	return seconds(d.mean)
}

// source gives the connections of a load one by one, always the same ones for a seed.
type source struct {
	load    Load
	chance  *rand.Rand
	played  int
	at      time.Duration
	clients int
}

func (l Load) source(seed uint64) *source {
	s := &source{load: l, chance: rand.New(rand.NewPCG(seed, 1)), clients: l.Clients}
	if l.Replay != nil {
		s.clients = len(l.Replay.clients)
	}
	return s
}

// next makes c the next connection, and says whether there is one.
func (s *source) next(c *Conn) bool {
	if s.played >= s.load.size() {
		return false
	}
	if r := s.load.Replay; r != nil {
		*c = r.conns[s.played]
		s.played++
		s.at = c.At
		return true
	}
	a := s.load.Arrivals
	switch {
	case a.kind == "poisson":
		s.at += seconds(a.every * s.chance.ExpFloat64())
	case s.played%a.burst == 0 && s.played > 0:
		s.at = seconds(a.every * float64(s.played))
	}
	s.played++
	s.draw(c, s.chance.IntN(s.clients))
	return true
}

// again makes c one more connection of a client, later than all before.
func (s *source) again(c *Conn, client int) {
	if r := s.load.Replay; r != nil {
		s.at += r.gap
		*c = Conn{At: s.at, Lasts: r.mean, Client: netip.AddrPortFrom(r.clients[client], s.port()), Virtual: virtual(0), client: int32(client)}
		return
	}
	s.at += seconds(s.load.Arrivals.every)
	s.draw(c, client)
}

func (s *source) draw(c *Conn, client int) {
	destination := 0
	if s.load.Destinations > 1 {
		destination = s.chance.IntN(s.load.Destinations)
	}
	*c = Conn{
		At: s.at, Lasts: s.load.Durations.draw(s.chance),
		Client:  netip.AddrPortFrom(clientAddr(client), s.port()),
		Virtual: virtual(destination), client: int32(client),
	}
}

// port is one of those that clients take.
func (s *source) port() uint16 { return uint16(32768 + s.chance.IntN(28232)) }

// clientAddr is a client's address: all over 10.0.0.0/8, and another one for each client.
func clientAddr(client int) netip.Addr {
	n := uint32(client) * 0x9e3779b1 % (1 << 24)
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

const maxDestinations = 1 << 20

// virtual is the address and port of a destination, from 172.16.0.1:80 on.
func virtual(destination int) netip.AddrPort {
	n := uint32(destination) + 1
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16 + byte(n>>16), byte(n >> 8), byte(n)}), 80)
}
