// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"lvs"
	"lvs/ipvsadm"
)

// What kernel IPVS makes of packets is in testdata/recorded.txt: stories of commands, a packet, and what leaves then by which
// interface. TestRecordAnew writes the answers, on a kernel that has IPVS; TestPacketsOfTheKernel asks our programs for the same ones.

const recordedFile = "testdata/recorded.txt"

// recorded is a line of a story: a command, a packet that comes in, or the frame that leaves.
type recorded struct {
	words []string
	in    *packet
	by    string // clients or servers
	out   []byte
}

// mustRecordings reads the stories: the comment at the top, their names, and their lines.
func mustRecordings(t *testing.T) (top string, names []string, stories [][]recorded) {
	t.Helper()
	b, err := os.ReadFile(recordedFile)
	must(t, err)
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "== "):
			names, stories = append(names, line[3:]), append(stories, nil)
			continue
		case len(names) == 0:
			top += line + "\n"
			continue
		case line == "":
			continue
		}
		at := len(stories) - 1
		stories[at] = append(stories[at], mustLine(t, words))
	}
	return top, names, stories
}

func mustLine(t *testing.T, words []string) recorded {
	t.Helper()
	switch words[0] {
	case "tcp", "udp":
		return recorded{words: words, in: mustPacket(t, words)}
	case "clients", "servers":
		out, err := hex.DecodeString(strings.Join(words[1:], ""))
		must(t, err)
		return recorded{by: words[0], out: out}
	}
	return recorded{words: words}
}

// mustPacket reads a packet: protocol, client, service, server, direction, and what is particular about it.
func mustPacket(t *testing.T, words []string) *packet {
	t.Helper()
	p := &packet{payload: []byte("payload of it"), answer: words[4] == "<"}
	p.protocol = map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP}[words[0]]
	for i, a := range []*netip.AddrPort{&p.client, &p.virtual, &p.server} {
		*a = netip.MustParseAddrPort(words[1+i])
	}
	for _, w := range words[5:] {
		name, value, _ := strings.Cut(w, "=")
		n, _ := strconv.ParseUint(value, 0, 16)
		switch name {
		case "ttl":
			p.ttl = uint8(n)
		case "tos":
			p.tos = uint8(n)
		case "size":
			p.payload = slices.Repeat([]byte("0123456789"), int(n)/10+1)[:n]
		case "options":
			p.options = int(n)
		case "extensions":
			p.extensions = []byte{hopByHop, destinationOptions}[:n]
		case "may-fragment":
			p.fragmentOK = true
		case "no-checksum":
			p.noChecksum = true
		default:
			p.flags = w
		}
	}
	return p
}

// asKernel gives all settings the defaults of kernel IPVS.
func asKernel(s *lvs.Settings) error { return s.SetCompat(lvs.CompatKernel) }

func TestPacketsOfTheKernel(t *testing.T) {
	_, names, stories := mustRecordings(t)
	for hook, program := range hooks {
		t.Run(hook, func(t *testing.T) {
			w := mustWorld(t, Sizes{Conns: 1024, Services: 256, Servers: 256})
			w.mustServe()
			w.mustUpdate(func(t *lvs.Table) error { t.Clear(); return nil })
			must(t, w.Set(asKernel))
			w.settings, _ = w.mustLook().settings()
			for i, story := range stories {
				w.mustTell(t, program(w), names[i], story)
			}
		})
	}
}

// mustTell plays a story and compares what leaves.
func (w *world) mustTell(t *testing.T, p *ebpf.Program, name string, story []recorded) {
	t.Helper()
	before := w.settings
	w.mustCommand(t, "ipvsadm", "-C")
	for i := 0; i < len(story); i++ {
		l := story[i]
		if l.in == nil {
			w.mustCommand(t, l.words...)
			continue
		}
		var want []recorded
		for i+1 < len(story) && story[i+1].out != nil {
			i++
			want = append(want, story[i])
		}
		by, got := w.mustLeave(t, p, *l.in)
		if l.in.noChecksum && l.in.virtual.Port() != l.in.server.Port() && got != nil {
			copy(got[headers+26:headers+28], want[0].out[headers+26:]) // the kernel makes one, for NAT
		}
		mustBeSame(t, name+": "+strings.Join(l.words[4:], " "), by, got, want)
	}
	w.settings = before
	w.setClock(w.settings.Now)
}

// mustCommand does what a line that is no packet says.
func (w *world) mustCommand(t *testing.T, words ...string) {
	t.Helper()
	if words[0] == "setting" {
		name, value, _ := strings.Cut(words[1], "=")
		must(t, w.Set(func(s *lvs.Settings) error {
			n, err := lvs.Setting(name)
			if err != nil {
				return err
			}
			return n.Set(s, value)
		}))
		var err error
		w.settings, err = w.mustLook().settings()
		must(t, err)
		return
	}
	var said bytes.Buffer
	env := ipvsadm.System(func(ipvsadm.Mode) (lvs.Director, error) { return w.Director, nil })
	env.Stdout, env.Stderr = &said, &said
	if code := ipvsadm.Run(env, words); code != 0 {
		t.Fatalf("%v: exit status %d: %s", words, code, &said)
	}
}

// mustLeave runs a packet through a program, and, if that is XDP which leaves it to tc, through tc. It gives what leaves, and
// by which interface, or nothing.
func (w *world) mustLeave(t *testing.T, p *ebpf.Program, in packet) (by string, out []byte) {
	t.Helper()
	frame := in.frame(t)
	verdict, out := w.run(p, w.side(in), frame)
	if p.Type() == ebpf.XDP && verdict == xdpPass {
		p = w.tc
		verdict, out = w.run(p, w.side(in), frame)
	}
	switch verdict {
	case tcRedirect, xdpRedirect:
		if handedIn(out) {
			return "kernel", out
		}
		if bytes.Equal(out[:6], clientMAC) {
			return "clients", out
		}
		return "servers", out
	case tcPass: // for the kernel to fragment it
		if !bytes.Equal(out, frame) {
			return "kernel", out
		}
	}
	return "", nil
}

// mustBeSame compares a frame with the recorded one, but for what is random: the identification of a packet that may be
// fragmented, the source port of GUE, and flow labels.
func mustBeSame(t *testing.T, in, by string, got []byte, want []recorded) {
	t.Helper()
	switch {
	case len(want) == 0 && got == nil:
		return
	case len(want) == 0 || got == nil:
		t.Errorf("%s: by %q leaves\n%x\nwant %d frames", in, by, got, len(want))
		return
	}
	frame := slices.Clone(want[0].out)
	if by == "kernel" { // which makes the fragments that were recorded
		for _, f := range want[1:] {
			frame = append(frame, f.out[headers+20:]...)
		}
		for _, b := range [][]byte{frame, got} {
			copy(b, make([]byte, 12))
			copy(b[16:], []byte{0, 0})
			copy(b[20:], []byte{0, 0})
			copy(b[24:], []byte{0, 0})
		}
		by = want[0].by
	}
	got = slices.Clone(got)
	alike(got, frame)
	if isICMP(frame) && isICMP(got) {
		got, frame = alikeErrors(got, frame)
	}
	if by != want[0].by || !bytes.Equal(got, frame) {
		t.Errorf("%s: by %s leaves\n%sand by %s of kernel IPVS\n%s", in, by, hex.Dump(got), want[0].by, hex.Dump(frame))
	}
}

func isICMP(frame []byte) bool {
	return frame[12] == 8 && frame[23] == 1 || frame[12] == 0x86 && frame[20] == 58
}

// alikeErrors takes over what ICMP errors differ in. They quote more or less of the packet; the kernel's have its TTL after the
// director took one off, and its DSCP.
func alikeErrors(got, want []byte) (g, w []byte) {
	n := min(len(got), len(want))
	g, w = got[:n], slices.Clone(want[:n])
	at, quoted := headers+20, headers+28
	if got[12] == 8 {
		copy(w[15:20], g[15:20])
		copy(w[24:26], g[24:26])
		copy(w[quoted+8:quoted+9], g[quoted+8:])
		copy(w[quoted+10:quoted+12], g[quoted+10:])
	} else {
		at, quoted = headers+40, headers+48
		copy(w[18:20], g[18:20])
		w[quoted+7] = g[quoted+7]
	}
	copy(w[at+2:at+4], g[at+2:])
	return g, w
}

// alike takes what is random, or of no consequence, over from one frame into another.
func alike(got, want []byte) {
	at, protocol := headers+20, got[23]
	if got[12] == 8 {
		if got[20]&0x40 == 0 {
			copy(got[18:20], want[18:20])
			copy(got[24:26], want[24:26])
		}
	} else {
		got[15] = got[15]&0xf0 | want[15]&0xf // the flow label
		copy(got[16:18], want[16:18])
		at, protocol = headers+40, got[20]
	}
	const gue = 6080
	if protocol != 17 || len(got) < at+8 || len(want) < at+8 || binary.BigEndian.Uint16(got[at+2:]) != gue {
		return
	}
	// the checksum goes with the source port
	if sum := got[at+6:]; sum[0]|sum[1] != 0 {
		n := uint32(^binary.BigEndian.Uint16(sum)) + uint32(^binary.BigEndian.Uint16(got[at:])) + uint32(binary.BigEndian.Uint16(want[at:]))
		for n > 0xffff {
			n = n&0xffff + n>>16
		}
		binary.BigEndian.PutUint16(sum, ^uint16(n))
		if sum[0]|sum[1] == 0 {
			sum[0], sum[1] = 0xff, 0xff
		}
	}
	copy(got[at:at+2], want[at:at+2])
}

// line gives a line of a story as it is written.
func (r recorded) line() string {
	if r.out == nil {
		return strings.Join(r.words, " ")
	}
	cut, s, last := []int{6, 12, 14}, r.by, 0
	for at := 46; at < len(r.out); at += 32 {
		cut = append(cut, at)
	}
	for _, at := range append(cut, len(r.out)) {
		if at > last {
			s += fmt.Sprintf(" %x", r.out[last:at])
			last = at
		}
	}
	return s
}
