// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"lvs"
	"lvs/ipvsadm"
)

// TestSIP: clients are remembered by their calls, as recorded from a Linux 6.1 kernel, and a listing tells the Call-IDs.
func TestSIP(t *testing.T) {
	id := serviceID(lvs.UDP, netip.MustParseAddrPort("203.0.113.20:5060"))
	c := lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 300, PE: "sip", OnePacket: true}
	onBothHooksSticky(t, id, c, 5060, func(t *testing.T, s *sticky) {
		calls, err := s.mustLook().m(bpfMapCalls)
		must(t, err)
		call := func(from, header string) int {
			p := path{lvs.UDP, netip.MustParseAddrPort(from), netip.MustParseAddrPort("203.0.113.20:5060"), netip.AddrPort{}}
			one := p.in("")
			one.payload = []byte("INVITE sip:bob@example.org SIP/2.0\r\nVia: here\r\n" + header + "\r\n")
			return s.sendPacket(one, 0)
		}
		for _, c := range []struct {
			from, header string
			want         int
		}{
			{"198.51.100.7:5060", "Call-ID: one@here\r\n", 3},
			{"198.51.100.7:5060", "Call-ID: two@here\r\n", 2},
			{"198.51.100.7:5061", "i: one@here\r\n", 3},
			{"198.51.100.8:5060", "call-id  :   one@here\r\n", 1},
			{"198.51.100.8:5060", "From: me\r\n", 0},
		} {
			if got := call(c.from, c.header); got != c.want {
				t.Errorf("%s %q: server %d gets it, want %d", c.from, c.header, got, c.want)
			}
		}
		var out bytes.Buffer
		env := ipvsadm.Env{Stdout: &out, Stderr: &out, Open: func(ipvsadm.Mode) (lvs.Director, error) { return s.Director, nil }}
		if code := ipvsadm.Run(env, []string{"ipvsadm", "-Lnc", "--persistent-conn"}); code != 0 {
			t.Fatalf("exit %d: %s", code, out.String())
		}
		for _, row := range []string{
			"UDP 05:00  NONE        198.51.100.7:0     203.0.113.20:5060  10.0.0.12:5060   sip                two@here\n",
			"UDP 05:00  NONE        198.51.100.7:0     203.0.113.20:5060  10.0.0.13:5060   sip                one@here\n",
			"UDP 05:00  NONE        198.51.100.8:0     203.0.113.20:5060  10.0.0.11:5060   sip                one@here\n",
		} {
			if !bytes.Contains(out.Bytes(), []byte(row)) {
				t.Errorf("no row\n%s in\n%s", row, out.String())
			}
		}
		s.pass(5 * time.Minute)
		s.mustShow("all is over")
		var key uint32
		if err := calls.NextKey(nil, &key); err == nil {
			t.Errorf("a call is kept, of line %d", key)
		}
		s.mustUpdate(func(t *lvs.Table) error { t.Clear(); return nil })
		if set, err := s.mustLook().settings(); err != nil || set.Calls != 0 {
			t.Errorf("calls are looked for still: %d, %v", set.Calls, err)
		}
	})
}
