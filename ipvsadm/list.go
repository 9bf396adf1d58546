// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"net/netip"
	"strconv"

	"lvs"
)

// version is the one of IPVS that listings claim.
const version = "1.2.1"

// printer writes listings.
type printer struct {
	w     *bufio.Writer
	names *names
	given set
	line  []byte // that is being made
}

// layout is a form of the listing: what stands above, and in the columns.
type layout struct {
	chosenBy set
	title    string // of services
	heads    string // of servers, and the columns
	columns  func(p *printer, d *lvs.Server) string
	counters func(lvs.Stats, lvs.Rates) [5]uint64 // shown for services, too, instead of their configuration
}

// layouts are in the order of precedence; the last is the usual one.
var layouts = []layout{{
	chosenBy: optStats,
	title:    "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
	heads:    "  -> RemoteAddress:Port",
	columns:  func(p *printer, d *lvs.Server) string { return p.figures(statsOf(d.Stats, d.Rates), 0) },
	counters: statsOf,
}, {
	chosenBy: optRate,
	title:    "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
	heads:    "  -> RemoteAddress:Port",
	columns:  func(p *printer, d *lvs.Server) string { return p.figures(ratesOf(d.Stats, d.Rates), 3) },
	counters: ratesOf,
}, {
	chosenBy: optThresholds,
	title:    "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ",
	heads:    "  -> RemoteAddress:Port",
	columns: func(p *printer, d *lvs.Server) string {
		return fmt.Sprintf(" %-10d %-10d %-10d %-10d", d.Upper, d.Lower, d.Load.Active, d.Load.Inactive)
	},
}, {
	chosenBy: optPersistentConn,
	title:    "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ",
	heads:    "  -> RemoteAddress:Port",
	columns: func(p *printer, d *lvs.Server) string {
		return fmt.Sprintf(" %-9d %-11d %-10d %-10d", d.Weight, d.Load.Persistent, d.Load.Active, d.Load.Inactive)
	},
}, {
	chosenBy: optTunInfo,
	title:    "Prot LocalAddress:Port Scheduler Flags",
	heads:    "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn",
	columns: func(p *printer, d *lvs.Server) string {
		return fmt.Sprintf(" %-7s %-13s %-6d %-10d %-10d", d.Forward, tunnelInfo(d), d.Weight, d.Load.Active, d.Load.Inactive)
	},
}, {
	chosenBy: ^set(0),
	title:    "Prot LocalAddress:Port Scheduler Flags",
	heads:    "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
	columns: func(p *printer, d *lvs.Server) string {
		return fmt.Sprintf(" %-7s %-6d %-10d %-10d", d.Forward, d.Weight, d.Load.Active, d.Load.Inactive)
	},
}}

func statsOf(s lvs.Stats, _ lvs.Rates) [5]uint64 {
	return [5]uint64{s.Conns, s.InPackets, s.OutPackets, s.InBytes, s.OutBytes}
}

func ratesOf(_ lvs.Stats, r lvs.Rates) [5]uint64 {
	return [5]uint64{r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS}
}

// services writes the listing of services.
func (p *printer) services(services []*lvs.Service) {
	i := 0
	for p.given&layouts[i].chosenBy == 0 && i < len(layouts)-1 {
		i++
	}
	l := &layouts[i]
	fmt.Fprintf(p.w, "%s\n%s\n", l.title, l.heads)
	for _, s := range services {
		p.service(l, s)
	}
}

func (p *printer) service(l *layout, s *lvs.Service) {
	name := p.serviceName(s.ServiceID)
	if l.counters != nil {
		fmt.Fprintf(p.w, "%-33s%s\n", name, p.figures(l.counters(s.Stats, s.Rates), 0))
	} else {
		fmt.Fprintf(p.w, "%s%s\n", name, serviceFlags(s))
	}
	for _, d := range p.order(s.Servers) {
		name := p.endpoint(d.Addr, d.Port, s.Protocol)
		if d.Addr.Is4() {
			name = name[:min(len(name), 28)]
		}
		fmt.Fprintf(p.w, "  -> %-28s%s\n", name, l.columns(p, d))
	}
}

func (p *printer) order(servers []*lvs.Server) []*lvs.Server {
	if p.given&optNoSort != 0 {
		return servers
	}
	return sortedServers(servers)
}

func (p *printer) serviceName(id lvs.ServiceID) string {
	if id.Mark != 0 {
		name := fmt.Sprintf("FWM  %d", int32(id.Mark)) // the original shows big marks as negative numbers
		if id.Family == lvs.IPv6 {
			name += " IPv6"
		}
		return name
	}
	name := fmt.Sprintf("%-4s %s", id.Protocol, p.endpoint(id.Addr, id.Port, id.Protocol))
	if id.Family == lvs.IPv4 {
		name = name[:min(len(name), 33)]
	}
	return name
}

// serviceFlags is what follows the name in a service's line.
func serviceFlags(s *lvs.Service) string {
	text := " " + s.Scheduler
	if s.SchedulerFlags != 0 {
		text += " (" + schedFlagNames(s.SchedulerFlags, s.Scheduler) + ")"
	}
	if s.Persistent != 0 {
		text += fmt.Sprintf(" persistent %d", s.Persistent)
		if mask := netmask(s); mask != "" {
			text += " mask " + mask
		}
		if s.PE != "" {
			text += " pe " + s.PE
		}
	}
	if s.OnePacket {
		text += " ops"
	}
	if s.OnDead != lvs.OnDeadUnset {
		text += " on-dead " + s.OnDead.String()
	}
	return text
}

// netmask gives the mask of persistence, or nothing if each client counts alone.
func netmask(s *lvs.Service) string {
	if s.Family == lvs.IPv6 {
		if s.Netmask == 128 {
			return ""
		}
		return strconv.Itoa(int(s.Netmask))
	}
	if s.Netmask == ^uint32(0) {
		return ""
	}
	m := s.Netmask
	return netip.AddrFrom4([4]byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}).String()
}

// endpoint gives host:port, by name if that is wanted, cut where the original's buffer ends.
func (p *printer) endpoint(addr netip.Addr, port uint16, proto lvs.Protocol) string {
	return string(p.appendEndpoint(nil, addr, port, proto))
}

// appendEndpoint is for listings of a million lines.
func (p *printer) appendEndpoint(b []byte, addr netip.Addr, port uint16, proto lvs.Protocol) []byte {
	start := len(b)
	if addr.Is6() {
		b = append(b, '[')
	}
	if p.given&optNumeric != 0 {
		b = appendAddr(b, addr)
	} else {
		b = append(b, p.names.host(addr)...)
	}
	if addr.Is6() {
		b = append(b, ']')
	}
	b = append(b, ':')
	if p.given&optNumeric != 0 {
		b = strconv.AppendUint(b, uint64(port), 10)
	} else {
		b = append(b, p.names.service(port, proto)...)
	}
	return b[:min(len(b), start+59)]
}

var checksumInfo = [...]string{lvs.NoChecksum: "-c", lvs.FullChecksum: "+c", lvs.RemoteChecksum: "r+c"}

func tunnelInfo(d *lvs.Server) string {
	if d.Forward != lvs.Tunnel {
		return "n/a"
	}
	name := tunnelRules[d.Tunnel.Type].name
	switch d.Tunnel.Type {
	case lvs.GUE:
		return fmt.Sprintf("%s:%d:%s", name, d.Tunnel.Port, checksumInfo[d.Tunnel.Checksum])
	case lvs.GRE:
		return name + ":" + checksumInfo[d.Tunnel.Checksum]
	}
	return name
}

// figures gives five counters in columns of 9 characters, abbreviated unless exact ones are wanted; the first
// few (exact) never are.
func (p *printer) figures(n [5]uint64, exact int) string {
	var b []byte
	for i, v := range n {
		switch {
		case i < exact:
			b = fmt.Appendf(b, " %8d", v)
		case p.given&optExact != 0:
			b = fmt.Appendf(b, "%9s", " "+strconv.FormatUint(v, 10))
		default:
			b = append(b, abbreviate(v)...)
		}
	}
	return string(b)
}

func abbreviate(v uint64) string {
	switch {
	case v < 100e6:
		return fmt.Sprintf("%9d", v)
	case v < 1e9:
		return fmt.Sprintf("%8dK", v/1e3)
	case v < 100e9:
		return fmt.Sprintf("%8dM", v/1e6)
	case v < 100e12:
		return fmt.Sprintf("%8dG", v/1e9)
	}
	return fmt.Sprintf("%8dT", v/1e12)
}
