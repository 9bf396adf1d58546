// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"iter"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"lvs"
)

const (
	ownLive      = 1
	kindPlain    = 0
	kindTemplate = 1
	kindReturn   = 2
	kindLost     = 3
)

// isTemplate says whether an entry is a template, be it a lost one.
func (e *bpfConn) isTemplate() bool { return e.Kind == kindTemplate || e.Kind == kindLost }

// entries is the connection table as the kernel has it, which packets change while it is read. Whoever goes over it does so here.
type entries struct {
	lines []bpfConn
	links []uint32 // the word beside each line

	accounts []bpfAccounts // by segment; nil if none are kept
}

func (in *instance) entries() (entries, error) {
	segments, err := mapped[bpfSegment](in, bpfMapConns)
	if err != nil {
		return entries{}, err
	}
	beside, err := mapped[bpfLinks](in, bpfMapLinks)
	if err != nil {
		return entries{}, err
	}
	n := len(segments) * segmentLines
	t := entries{lines: unsafe.Slice(&segments[0].Line[0], n), links: unsafe.Slice(&beside[0].Line[0], n)}
	if accounting, err := in.accounting(); err != nil || !accounting {
		return t, err
	}
	t.accounts, err = mapped[bpfAccounts](in, bpfMapAccounts)
	return t, err
}

// at copies the entry in a line, and says whether there is one that is not being written just now.
func (t entries) at(line uint32, into *bpfConn) bool {
	if int(line) >= len(t.lines) {
		return false
	}
	e := &t.lines[line]
	own := atomic.LoadUint32(&e.Own)
	if own&ownLive == 0 {
		return false
	}
	*into = *e
	return atomic.LoadUint32(&e.Own) == own
}

// all goes over the live entries, of all kinds, past their time or not. Entries never move, so that one that is there all the while
// comes exactly once. What is handed out is a copy, until the next one comes.
func (t entries) all() iter.Seq2[uint32, *bpfConn] {
	return func(yield func(uint32, *bpfConn) bool) {
		var e bpfConn
		for i := range t.lines {
			if t.at(uint32(i), &e) && !yield(uint32(i), &e) {
				return
			}
		}
	}
}

// local is what the server of a FULLNAT connection sees in its client's place; the zero value while it begins or ends.
func (t entries) local(at uint32) netip.AddrPort {
	var r bpfConn
	back := atomic.LoadUint32(&t.links[at])
	if !t.at(back, &r) || r.Kind != kindReturn || atomic.LoadUint32(&t.links[back]) != at {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(fromAddr(r.Client), fromPort(r.ClientPort))
}

// account fills in what the entry in a line has carried, and since when, by a clock of jiffies; if that is kept.
func (t entries) account(at uint32, e *lvs.Entry, seconds uint32) {
	if t.accounts == nil {
		return
	}
	a := &t.accounts[at/segmentLines]
	line := &a.Line[at%segmentLines]
	e.Accounted = true
	e.Age = time.Duration(seconds-atomic.LoadUint32(&a.Began[at%segmentLines])) * time.Second
	e.Stats = lvs.Stats{
		InPackets: atomic.LoadUint64(&line.InPackets), OutPackets: atomic.LoadUint64(&line.OutPackets),
		InBytes: atomic.LoadUint64(&line.InBytes), OutBytes: atomic.LoadUint64(&line.OutBytes),
	}
}

// live counts the entries.
func (t entries) live() (n int) {
	for i := range t.lines {
		n += int(atomic.LoadUint32(&t.lines[i].Own) & ownLive)
	}
	return n
}
