// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"slices"
	"strings"

	"pgregory.net/rapid"

	"lvs"
)

// What the segments of clients and servers say, by what is likely.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
)

var (
	flagsOfClients = []byte{syn, syn, syn, ack, ack | psh, fin | ack, rst, rst | ack, syn | ack, syn | rst, syn | fin, psh, 0, 0xff}
	chunksOfSCTP   = []byte{1, 1, 1, 2, 0, 3, 6, 7, 8, 9, 10, 10, 11, 11, 14, 200}
	flagsOfServers = []byte{syn | ack, syn | ack, ack, ack | psh, fin | ack, rst, rst | ack, syn, fin, 0}
)

// drawTable adds a few services.
func drawTable(t *rapid.T) func(*lvs.Table) error {
	var some []func(*lvs.Table) error
	for range rapid.IntRange(1, 6).Draw(t, "services") {
		some = append(some, drawGrowth(t))
	}
	return func(t *lvs.Table) error {
		t.Locals = stageLocals
		for _, add := range some {
			if err := add(t); err != nil && err != lvs.ErrServiceExists {
				return err
			}
		}
		return nil
	}
}

// drawGrowth adds a service with servers.
func drawGrowth(t *rapid.T) func(*lvs.Table) error {
	n := rapid.SampledFrom([]int{0, 1, 2, 3, 4, 0, 1, 2, 3, 4, oddService, 6, 7, 8, 9, 10, 11, 12}).Draw(t, "service")
	id, config := stageServices[n], drawService(t, n)
	type one struct {
		id     lvs.ServerID
		config lvs.ServerConfig
	}
	var some []one
	for range rapid.SampledFrom([]int{2, 3, 4, 1, 0}).Draw(t, "servers") {
		some = append(some, one{drawServerID(t, n), drawServer(t, n)})
	}
	return func(table *lvs.Table) error {
		if err := table.AddService(id, config); err != nil {
			return err
		}
		for _, s := range some {
			if err := table.AddServer(id, s.id, s.config); err != nil && err != lvs.ErrServerExists {
				return err
			}
		}
		return nil
	}
}

// drawEdit is any one command of an operator, or two at once. Some make no sense.
func (s *stage) drawEdit(t *rapid.T) func(*lvs.Table) error {
	n := s.drawPresent(t)
	id := stageServices[n]
	drawServerID := s.drawMember
	switch rapid.SampledFrom([]string{"local", "add", "remove", "edit", "edit service", "add both", "remove service", "zero", "zero all", "time-outs", "again"}).Draw(t, "edit") {
	case "local":
		l := rapid.SampledFrom(stageLocals).Draw(t, "local address")
		own, add := &id, rapid.Bool().Draw(t, "add")
		if rapid.Bool().Draw(t, "shared") {
			own = nil
		}
		return func(t *lvs.Table) error {
			if add {
				return t.AddLocal(own, l)
			}
			return t.DeleteLocal(own, l.Addr)
		}
	case "add":
		server, config := drawServerID(t, n), drawServer(t, n)
		return func(t *lvs.Table) error { return t.AddServer(id, server, config) }
	case "remove":
		server := drawServerID(t, n)
		return func(t *lvs.Table) error { return t.DeleteServer(id, server) }
	case "edit":
		server, config := drawServerID(t, n), drawServer(t, n)
		return func(t *lvs.Table) error { return t.EditServer(id, server, config) }
	case "edit service":
		config := drawService(t, n)
		return func(t *lvs.Table) error { return t.EditService(id, config) }
	case "remove service":
		return func(t *lvs.Table) error { return t.DeleteService(id) }
	case "zero":
		return func(t *lvs.Table) error { return t.Zero(&id) }
	case "zero all":
		return func(t *lvs.Table) error { return t.Zero(nil) }
	case "time-outs":
		to := lvs.Timeouts{
			TCP: rapid.Uint32Range(0, 900).Draw(t, "tcp"), TCPFin: rapid.Uint32Range(0, 200).Draw(t, "fin"), UDP: rapid.Uint32Range(0, 300).Draw(t, "udp"),
		}
		return func(t *lvs.Table) error { t.SetTimeouts(to); return nil }
	case "again":
		server, config := drawServerID(t, n), drawServer(t, n)
		return func(t *lvs.Table) error {
			if err := t.DeleteServer(id, server); err != nil {
				return err
			}
			return t.AddServer(id, server, config)
		}
	}
	return drawGrowth(t)
}

// certain are the schedulers that leave nothing to chance.
var certain = slices.DeleteFunc(slices.Clone(lvs.Schedulers), func(s string) bool { return s == "twos" })

func drawService(t *rapid.T, n int) lvs.ServiceConfig {
	c := lvs.ServiceConfig{Scheduler: rapid.SampledFrom(certain).Draw(t, "scheduler"), Netmask: 0xffffffff}
	if c.Scheduler == "sh" || c.Scheduler == "mh" {
		c.SchedulerFlags = lvs.SchedulerFlags(rapid.Uint8Range(0, 3).Draw(t, "flags"))
	}
	netmasks := []uint32{0xffffffff, 0xffffff00, 0xff000000, 0}
	if stageServices[n].Family == lvs.IPv6 {
		c.Netmask = 128
		netmasks = []uint32{128, 127, 65, 64, 48, 1}
	}
	kinds := []string{"plain", "plain", "persistent", "one packet", "both"}
	if stageServices[n].Port == 0 && stageServices[n].Mark == 0 || stageServices[n].Port == 21 {
		kinds = []string{"persistent", "persistent", "persistent", "both", "plain"}
	}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	if kind == "persistent" || kind == "both" {
		c.Persistent = rapid.SampledFrom([]uint32{300, 1, 10, 60, 1000}).Draw(t, "persistent")
		c.Netmask = rapid.SampledFrom(netmasks).Draw(t, "netmask")
	}
	if c.Persistent != 0 && stageServices[n].Protocol != lvs.TCP && stageServices[n].Protocol != lvs.SCTP && rapid.Bool().Draw(t, "sip") {
		c.PE = "sip"
	}
	c.OnePacket = kind == "one packet" || kind == "both"
	c.OnDead = rapid.SampledFrom([]lvs.OnDead{lvs.OnDeadUnset, lvs.OnDeadUnset, lvs.OnDeadKeep, lvs.OnDeadDrop, lvs.OnDeadReset, lvs.OnDeadReschedule}).Draw(t, "on dead")
	return c
}

func drawServerID(t *rapid.T, n int) lvs.ServerID {
	all := castOf(servers, stageServices[n].Family)
	return lvs.ServerID{
		Addr: rapid.SampledFrom(append(all, all[:4]...)).Draw(t, "server"), // the last one, without a way, comes less often
		Port: rapid.SampledFrom([]uint16{80, 80, 8080}).Draw(t, "port"),
	}
}

func drawServer(t *rapid.T, n int) lvs.ServerConfig {
	c := lvs.ServerConfig{
		Forward: lvs.Masq,
		Weight:  rapid.SampledFrom([]int32{1, 1, 2, 3, 4, 6, 0, 65535}).Draw(t, "weight"),
		Upper:   rapid.SampledFrom([]uint32{0, 0, 0, 1, 2, 4, 10}).Draw(t, "upper"),
	}
	if c.Upper > 0 {
		c.Lower = rapid.Uint32Range(0, c.Upper).Draw(t, "lower")
	}
	if n == oddService {
		c.Forward = lvs.Route
	} else if rapid.IntRange(0, 3).Draw(t, "full") == 3 {
		c.Forward = lvs.FullNAT
	}
	if rapid.IntRange(0, 5).Draw(t, "tunnel") == 5 {
		c.Forward = lvs.Tunnel
		c.Tunnel.Type = rapid.SampledFrom([]lvs.TunnelType{lvs.IPIP, lvs.GRE, lvs.GUE}).Draw(t, "type")
		c.Tunnel.Checksum = rapid.SampledFrom([]lvs.Checksum{lvs.NoChecksum, lvs.FullChecksum, lvs.RemoteChecksum}).Draw(t, "checksums")
		c.Tunnel.Port = 6080
	}
	return c
}

// drawPresent is the number of a service, most often of one that there is.
func (s *stage) drawPresent(t *rapid.T) int {
	var there []int
	table, _ := s.judge.Table()
	for n, id := range stageServices {
		if table.Service(id) != nil {
			there = append(there, n)
		}
	}
	if len(there) == 0 || rapid.IntRange(0, 9).Draw(t, "any service") == 9 {
		return rapid.IntRange(0, len(stageServices)-1).Draw(t, "service")
	}
	return rapid.SampledFrom(there).Draw(t, "service")
}

// drawMember is a server, often of those that a service has.
func (s *stage) drawMember(t *rapid.T, n int) lvs.ServerID {
	table, _ := s.judge.Table()
	v := table.Service(stageServices[n])
	if v == nil || len(v.Servers) == 0 || rapid.Bool().Draw(t, "any server") {
		return drawServerID(t, n)
	}
	return v.Servers[rapid.IntRange(0, len(v.Servers)-1).Draw(t, "server")].ServerID
}

// drawPacket is a packet of a client, or now and then one of a server that nobody has asked.
func (s *stage) drawPacket(t *rapid.T) wire {
	n := s.drawPresent(t)
	id := stageServices[n]
	protocol, to, mark := s.drawDoor(t, n)
	from := netip.AddrPortFrom(rapid.SampledFrom(castOf(clients, id.Family)).Draw(t, "client"), rapid.Uint16Range(20_000, 20_002).Draw(t, "port"))
	if rapid.IntRange(0, 29).Draw(t, "from FTP") == 29 {
		from = netip.AddrPortFrom(from.Addr(), 20)
	}
	if rapid.IntRange(0, 9).Draw(t, "way") == 9 {
		server := s.drawMember(t, n)
		from, to, mark = netip.AddrPortFrom(server.Addr, server.Port), from, 0
	}
	if rapid.IntRange(0, 19).Draw(t, "other port") == 19 {
		to = netip.AddrPortFrom(to.Addr(), 81)
	}
	w := drawBody(t, protocol, from, to)
	s.drawCall(t, n, &w)
	if w.damages == nil { // a mark at other addresses is seen only later on their way
		w.mark = mark
	}
	w.flags = drawFlags(t, w.protocol, flagsOfClients)
	return w
}

// drawFlags are the flags of a segment, or the chunk of SCTP.
func drawFlags(t *rapid.T, p lvs.Protocol, flags []byte) byte {
	if p == lvs.SCTP {
		flags = chunksOfSCTP
	}
	return rapid.SampledFrom(flags).Draw(t, "flags")
}

// drawCall gives most packets to a service that goes by SIP calls a Call-ID, or something like it.
func (s *stage) drawCall(t *rapid.T, n int, w *wire) {
	table, _ := s.judge.Table()
	if v := table.Service(stageServices[n]); v == nil || v.PE == "" || rapid.IntRange(0, 9).Draw(t, "no call") == 9 {
		return
	}
	w.says = "INVITE sip:bob@example.org SIP/2.0\r\nVia: here\r\n"
	if rapid.IntRange(0, 3).Draw(t, "odd") != 3 {
		w.says += "Call-ID: " + rapid.SampledFrom([]string{"one@here", "two@here", "three"}).Draw(t, "call") + "\r\nMax-Forwards: 70\r\n"
		return
	}
	parts := []string{"\r\n", "\r", "\n", " ", "\t", ":", "call-id", "Call-ID", "i", "I", "one", "@", "here", ",", "Å", "\xd7", "\x00",
		"Call-ID: ", "Call-ID: @", strings.Repeat("x", 128), strings.Repeat("y", 127), "\r\n"}
	for _, part := range rapid.SliceOfN(rapid.SampledFrom(parts), 1, 12).Draw(t, "parts") {
		w.says += part
	}
}

// drawBody is a packet in most of what does not tell where it belongs to.
func drawBody(t *rapid.T, p lvs.Protocol, from, to netip.AddrPort) wire {
	w := wire{protocol: p, from: from, to: to, ttl: 64, payload: rapid.IntRange(0, 20).Draw(t, "payload"), fragment: 0x4000}
	if rapid.IntRange(0, 2).Draw(t, "special") != 2 {
		return w
	}
	switch rapid.SampledFrom([]string{"ttl", "ttl", "long", "long", "long", "long", "options", "checksum", "checksum", "cut", "fragment", "fragment", "fragment", "error", "error", "error", "damage", "foreign", "tagged", "protocol", "damages"}).Draw(t, "what") {
	case "ttl":
		w.ttl = rapid.SampledFrom([]byte{0, 1, 2, 255}).Draw(t, "ttl")
	case "long":
		w.payload = rapid.SampledFrom([]int{463, 464, 471, 472, 473, 484, 560, 561, 572, 573, 1220, 1221, 1232, 1233, 1400}).Draw(t, "payload")
		w.fragment = rapid.SampledFrom([]uint16{0, 0x4000}).Draw(t, "fragment")
	case "options":
		w.options = rapid.IntRange(1, 10).Draw(t, "options")
		w.extensions = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 43, 60, 0, 60, 44, 59, 51}), 1, 8).Draw(t, "extensions")
	case "checksum":
		w.checksum = rapid.SampledFrom([]wireChecksum{checksumNone, checksumWrong}).Draw(t, "checksum")
	case "cut":
		w.cut = rapid.IntRange(-40, 100).Draw(t, "cut")
	case "fragment":
		w.fragment = rapid.SampledFrom([]uint16{0x2000, 0x2000, 0x2000, 0x2004, 4, 0x2008, 8, 2, 1, 0x1fff, 0x8000, 0}).Draw(t, "fragment")
		w.extensions = rapid.SampledFrom([][]byte{{44}, {44}, {0, 44}, {44, 60}}).Draw(t, "extensions")
		w.payload = rapid.SampledFrom([]int{4, 8, 12, 16, 20, 1220}).Draw(t, "payload")
		w.id = rapid.ByteRange(0, 2).Draw(t, "id")
	case "error":
		drawError(t, &w)
	case "foreign":
		w.foreign = true
	case "tagged":
		w.tagged = true
	case "protocol":
		w.protocol = rapid.SampledFrom([]lvs.Protocol{lvs.TCP, lvs.UDP, 1, 58, lvs.SCTP, 50}).Draw(t, "protocol")
	case "damages":
		w.damages = []wireDamage{drawDamage(t, from.Addr()), drawDamage(t, from.Addr())}
	default:
		w.damages = []wireDamage{drawDamage(t, from.Addr())}
	}
	return w
}

// drawError makes of a packet an error about one that goes the other way. The oracle knows none about other protocols, of which
// TestRelatedSCTP and TestRelatedAHAndESP tell.
func drawError(t *rapid.T, w *wire) {
	if w.protocol != lvs.TCP && w.protocol != lvs.UDP {
		return
	}
	w.quotes = &wire{protocol: w.protocol, from: w.to, to: w.from, ttl: 60, payload: w.payload, fragment: 0x4000, flags: 16}
	w.quotes.options = rapid.SampledFrom([]int{0, 0, 0, 10}).Draw(t, "options")
	w.quotes.extensions = rapid.SampledFrom([][]byte{nil, nil, {44}, {60}}).Draw(t, "extensions")
	w.quoted = rapid.SampledFrom([]int{1500, 1500, 48, 28, 24, 23, 60, 46, 38, 10}).Draw(t, "quoted")
	w.kind = rapid.SampledFrom([]byte{3, 3, 11, 4, 1, 2, 8, 12, 128}).Draw(t, "kind")
	for range rapid.IntRange(0, 1).Draw(t, "damages") {
		// not the quoted addresses and ports
		w.damages = append(w.damages, wireDamage{rapid.SampledFrom([]int{34, 35, 36, 42, 43, 44, 48, 49, 51, 52, 62, 63, 66, 68, 70}).Draw(t, "at"), rapid.Byte().Draw(t, "is")})
	}
}

// drawDamage spares the source address and the ports: who comes is not to be a stranger to the cast.
func drawDamage(t *rapid.T, from netip.Addr) wireDamage {
	at := []int{12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23, 24, 25, 30, 33, 38, 39, 46, 47, 48, 50, 51}
	if from.Is6() {
		at = []int{12, 13, 14, 15, 18, 19, 20, 21, 38, 53, 58, 59, 66, 67, 68, 70, 71}
	}
	return wireDamage{rapid.SampledFrom(at).Draw(t, "at"), rapid.Byte().Draw(t, "is")}
}
