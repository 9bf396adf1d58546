// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Sizes are how much an instance has room for. They are set when it is loaded; 0 is the usual size.
type Sizes struct {
	Conns    int // connections, at the fill of three quarters up to which none is refused; rounded up to a multiple of 192
	Services int
	Servers  int

	Accounting bool // each connection's packets, bytes and age are kept, in 36 bytes more a line
}

// DefaultSizes take about 140 MB of memory, and 8 MB for each CPU.
var DefaultSizes = Sizes{Conns: 1 << 20, Services: 1 << 14, Servers: 1 << 17}

// MaxConns is the room for connections that can be had at most.
const MaxConns = 1 << 24

// ServersPerService is how many servers a service may have.
const ServersPerService = 4096

const segmentLines = 256

// segments is how many segments of the connection table hold that many connections at a fill of three quarters.
func (s Sizes) segments() uint32 { return uint32((s.Conns*4/3 + segmentLines - 1) / segmentLines) }

// connsIn is how many connections so many segments hold at that fill.
func connsIn(segments uint32) int { return int(segments) * segmentLines * 3 / 4 }

func (s Sizes) orDefault() Sizes {
	return Sizes{cmp.Or(s.Conns, DefaultSizes.Conns), cmp.Or(s.Services, DefaultSizes.Services), cmp.Or(s.Servers, DefaultSizes.Servers), s.Accounting}
}

func (s Sizes) check() error {
	switch {
	case s.Conns < 64 || s.Conns > MaxConns:
		return fmt.Errorf("room for %d connections: it can be 64 to %d", s.Conns, MaxConns)
	case s.Services < 1 || s.Services > 1<<20:
		return fmt.Errorf("room for %d services: it can be 1 to %d", s.Services, 1<<20)
	case s.Servers < 1 || s.Servers > 1<<22:
		return fmt.Errorf("room for %d servers: it can be 1 to %d", s.Servers, 1<<22)
	}
	return nil
}

// ErrOtherSize says that what is loaded has other sizes than those asked for.
var ErrOtherSize = errors.New("nothing that is in use changes its size")

// fixedSize refuses sizes that were asked for, if an instance of other sizes is loaded.
func (d *Director) fixedSize() error {
	in, err := d.open(unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.close()
	m, err := in.m(bpfMapConns)
	if err != nil {
		return err
	}
	for _, size := range []struct {
		what       string
		asked, has int
		same       bool
	}{
		{"connections", d.asked.Conns, in.size(), d.asked.segments() == m.MaxEntries()},
		{"services", d.asked.Services, len(in.services) - 1, d.asked.Services == len(in.services)-1},
		{"servers", d.asked.Servers, len(in.servers) - 1, d.asked.Servers == len(in.servers)-1},
	} {
		if size.asked != 0 && !size.same {
			return fmt.Errorf("%w: there is room for %d %s, not for %d; `director save --conns FILE`, `director unload`, an attach of the size and `director restore --conns FILE` change it",
				ErrOtherSize, size.has, size.what, size.asked)
		}
	}
	accounting, err := in.accounting()
	if err == nil && d.asked.Accounting && !accounting {
		err = fmt.Errorf("%w: connections are not accounted; `director save --conns FILE`, `director unload`, an attach that asks for it and `director restore --conns FILE` change it", ErrOtherSize)
	}
	return err
}

// accounting says whether the programs that run keep the account of each connection.
func (in *instance) accounting() (bool, error) {
	m, err := in.m(bpfMapAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // of a version that knew none
	}
	if err != nil {
		return false, err
	}
	table, err := in.m(bpfMapConns)
	return err == nil && m.MaxEntries() == table.MaxEntries(), err
}
