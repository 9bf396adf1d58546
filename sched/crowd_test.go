// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"bufio"
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"lvs"
)

// crowdClient is number i of the clients that a kernel was asked about, anywhere in 10.1.0.0/16 or in 2001:db8:1::/64.
func crowdClient(i int, family lvs.Family) netip.AddrPort {
	x := uint64(i+1) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 32
	port := uint16(1024 + x%60000)
	if family == lvs.IPv6 {
		a := [16]byte{0x20, 1, 0x0d, 0xb8, 0, 1}
		binary.LittleEndian.PutUint64(a[8:], x)
		return netip.AddrPortFrom(netip.AddrFrom16(a), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(x >> 40), byte(x >> 48)}), port)
}

// TestRecordedCrowds: sh and mh send each of 10,000 clients to the server that a Linux 6.1 kernel sends it to.
func TestRecordedCrowds(t *testing.T) {
	f, err := os.Open("testdata/crowds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	played := map[string]int{}
	for lines.Scan() {
		title := lines.Text()
		head := strings.Fields(title) // == scheduler, flags, family, port, weights
		if !lines.Scan() {
			t.Fatal("no choices after ", title)
		}
		played[head[1]]++
		t.Run(title, func(t *testing.T) { playCrowd(t, head, lines.Text()) })
	}
	if err := lines.Err(); err != nil || played["sh"] < 4 || played["mh"] < 4 {
		t.Errorf("played %v, %v", played, err)
	}
}

func playCrowd(t *testing.T, head []string, want string) {
	flags := lvs.SchedulerFlags(0)
	if head[2] != "-" {
		flags = mustFlags(t, head[2])
	}
	family, network := lvs.IPv4, "10.2.0."
	if head[3] == "6" {
		family, network = lvs.IPv6, "2001:db8:2::"
	}
	port, _ := strconv.Atoi(head[4])
	s := mustStory(t, head[1], flags)
	for n, text := range head[5:] {
		weight, _ := strconv.Atoi(text)
		last := strconv.Itoa(17 + n)
		if family == lvs.IPv6 {
			last = strconv.FormatInt(int64(17+n), 16)
		}
		s.add(n+1, lvs.ServerID{Addr: netip.MustParseAddr(network + last), Port: uint16(port)}, int32(weight), Limits{})
	}
	if len(want) != 10_000 {
		t.Fatalf("%d choices recorded", len(want))
	}
	for i := range want {
		if got := s.connect(crowdClient(i, family), netip.AddrPort{}, "udp"); got != want[i] {
			t.Fatalf("client %d, %v, goes to %c, want %c", i, crowdClient(i, family), got, want[i])
		}
	}
}
