// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"lvs"
)

var listedConns = []lvs.Conn{
	{Protocol: lvs.TCP, State: lvs.TCPEstablished, Client: netip.MustParseAddrPort("198.51.100.7:1024"), Virtual: netip.MustParseAddrPort("203.0.113.1:80"), Server: netip.MustParseAddrPort("10.0.0.1:8080"), Expires: 900 * time.Second},
	{Protocol: lvs.SCTP, State: lvs.SCTPStates - 1, Client: netip.MustParseAddrPort("198.51.100.7:1"), Virtual: netip.MustParseAddrPort("203.0.113.1:9"), Server: netip.MustParseAddrPort("10.0.0.1:9"), Expires: 61 * time.Second},
	{Protocol: lvs.UDP, Client: netip.MustParseAddrPort("[2001:db8:1:2:3:4:5:6]:53"), Virtual: netip.MustParseAddrPort("[::192.0.2.1]:53"), Server: netip.MustParseAddrPort("[fd00::1]:53"), Expires: 200 * time.Minute},
	{Protocol: lvs.UDP, Template: true, PE: "sip", PEData: "a@b", Client: netip.MustParseAddrPort("198.51.100.7:0"), Virtual: netip.MustParseAddrPort("203.0.113.1:5060"), Server: netip.MustParseAddrPort("10.0.0.1:5060")},
	{Protocol: 0, Template: true, State: lvs.TemplateAssured, Client: netip.MustParseAddrPort("198.51.100.0:0"), Virtual: netip.MustParseAddrPort("0.0.0.7:0"), Server: netip.MustParseAddrPort("10.0.0.1:0"), Expires: 5 * time.Second},
}

// What is written without formats is what the original's formats give.
func TestConnLines(t *testing.T) {
	var out bytes.Buffer
	p := &printer{w: bufio.NewWriter(&out), given: optNumeric | optPersistentConn}
	for _, c := range listedConns {
		out.Reset()
		p.conn(&c)
		p.w.Flush()
		engine, destination := "", p.endpoint(c.Server.Addr(), c.Server.Port(), c.Protocol)
		if c.PE != "" {
			destination, engine = fmt.Sprintf("%-16s", destination), fmt.Sprintf(" %-18s %s", c.PE, c.PEData)
		}
		seconds := int(c.Expires.Seconds())
		want := fmt.Sprintf("%-3s %-6s %-11s %-18s %-18s %s%s\n", c.Protocol,
			fmt.Sprintf("%02d:%02d", seconds/60, seconds%60), c.StateName(), p.endpoint(c.Client.Addr(), c.Client.Port(), c.Protocol),
			p.endpoint(c.Virtual.Addr(), c.Virtual.Port(), c.Protocol), destination, engine)
		if got := out.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A line leaves nothing behind: a listing of a million is as small as one of ten.
func TestConnLinesTakeNoMemory(t *testing.T) {
	p := &printer{w: bufio.NewWriter(io.Discard), given: optNumeric}
	for _, c := range listedConns[:3] {
		if n := testing.AllocsPerRun(100, func() { p.conn(&c) }); n != 0 {
			t.Errorf("%v: %v allocations", c.Protocol, n)
		}
	}
}

func BenchmarkConnLine(b *testing.B) {
	p := &printer{w: bufio.NewWriter(io.Discard), given: optNumeric}
	for b.Loop() {
		p.conn(&listedConns[0])
	}
}
