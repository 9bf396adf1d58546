// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Fill is how much of a table is used.
type Fill struct {
	Used int `json:"used"`
	Size int `json:"size"`
}

// Interface tells what is attached to an interface.
type Interface struct {
	Name    string `json:"name"`
	Up      bool   `json:"up"`
	Missing bool   `json:"missing,omitempty"` // it was asked for by name, and is not there
	TC      string `json:"tc"`                // "tcx", "clsact", "" or, if the link has gone, "lost"
	XDP     string `json:"xdp"`               // "native", "generic", "" or "lost"
	Egress  string `json:"egress,omitempty"`  // as TC: for local clients and servers, and for packets with marks
	Advice  string `json:"advice,omitempty"`  // what to do about it, if anything
}

// Reason tells how many packets were not forwarded for a reason.
type Reason struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
	Meaning string `json:"meaning"`
}

// Features are what the running kernel offers.
type Features struct {
	Kernel string `json:"kernel"`
	BTF    bool   `json:"btf"`
	TCX    bool   `json:"tcx"`
	JIT    bool   `json:"jit"`
}

// Programs tell which version of the programs runs.
type Programs struct {
	Running    string `json:"running"`
	Own        string `json:"own"` // of this binary
	Layout     int    `json:"layout"`
	UpgradeDue bool   `json:"upgrade_due"`
}

// Status is how an instance fares.
type Status struct {
	Loaded      bool        `json:"loaded"`
	Pins        string      `json:"pins"`
	Programs    Programs    `json:"programs"`
	Features    Features    `json:"features"`
	Conns       Fill        `json:"conns"`
	Services    Fill        `json:"services"`
	Servers     Fill        `json:"servers"`
	MemoryBytes uint64      `json:"memory_bytes"` // that is taken from the beginning; lists of servers and the like grow
	TableBytes  uint64      `json:"table_bytes"`  // of that, the connection table
	Sweeps      uint32      `json:"sweeps"`       // times that the whole connection table was swept
	Expired     uint64      `json:"expired_conns"`
	Shed        uint64      `json:"shed_conns"` // that drop_entry has ended before their time
	Interfaces  []Interface `json:"interfaces"`
	Reasons     []Reason    `json:"reasons"`
	Marks       []string    `json:"marks,omitempty"` // firewall marks that lead packets to the program
	Advice      []string    `json:"advice,omitempty"`
}

// meanings are what C's enum reason says, for people.
var meanings = map[bpfReason]string{
	bpfReasonREASON_NO_SERVER:        "no usable server: answered with ICMP port unreachable",
	bpfReasonREASON_NO_SERVER_QUIET:  "the same, beyond the limit of ICMP messages: dropped",
	bpfReasonREASON_TABLE_FULL:       "no room for a new connection: dropped",
	bpfReasonREASON_TABLE_BUSY:       "lost too many races for a place in the connection table: dropped",
	bpfReasonREASON_REMOVED:          "the connection's server was removed: dropped",
	bpfReasonREASON_RESET:            "the same, or taken away by drain --then reset: both ends are told by a RST",
	bpfReasonREASON_RESET_QUIET:      "the same, beyond the limit of ICMP messages: dropped",
	bpfReasonREASON_TTL:              "TTL or hop limit used up: answered with ICMP, or dropped",
	bpfReasonREASON_TOO_BIG:          "larger than the way on: answered with ICMP, or left to the kernel",
	bpfReasonREASON_NO_ROUTE:         "no route: answered with ICMP, or left to the kernel",
	bpfReasonREASON_NO_CONN:          "for a service, but no connection and no SYN: left to the kernel",
	bpfReasonREASON_FRAGMENT:         "a later fragment, and its first one did not come before it: dropped",
	bpfReasonREASON_FRAGMENT_OVERLAP: "a later fragment that overlaps the first one: dropped",
	bpfReasonREASON_MALFORMED:        "impossible lengths, for an address of ours: left to the kernel",
	bpfReasonREASON_NO_LOCAL_PORT:    "no local address and port free for FULLNAT (director laddr): answered with ICMP port unreachable",
	bpfReasonREASON_TOA_NO_ROOM:      "no room for the client's address (TOA), which the server has not heard yet: forwarded without it",
	bpfReasonREASON_DEFENCE:          "begins a connection while drop_packet is on: dropped",
	bpfReasonREASON_NO_CALL:          "for a service with --pe sip, but without a Call-ID: dropped",
	bpfReasonREASON_UNSUPPORTED:      "a fragment of SCTP, AH or ESP: left to the kernel; or a server by FULLNAT that is the director itself: dropped",
}

// reasonNames gives the names of C's enum reason, in small letters, from the program's BTF.
func reasonNames() (map[bpfReason]string, error) {
	c, err := loadBpf()
	if err != nil {
		return nil, err
	}
	var enum *btf.Enum
	if err := c.Types.TypeByName("reason", &enum); err != nil {
		return nil, err
	}
	names := map[bpfReason]string{}
	for _, v := range enum.Values {
		names[bpfReason(v.Value)] = strings.ToLower(strings.TrimPrefix(v.Name, "REASON_"))
	}
	return names, nil
}

// Status reads how the instance fares, and looks for what is set badly.
func (d *Director) Status() (*Status, error) {
	s := &Status{Pins: d.place.Shown, Features: features(), Conns: Fill{Size: connsIn(d.sizes.segments())}, Services: Fill{Size: d.sizes.Services}, Servers: Fill{Size: d.sizes.Servers}}
	in, err := d.open(unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		s.Advice = append(s.Advice, "nothing is loaded yet: the first change, or `director attach`, does it")
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	defer in.close()
	s.Loaded = true
	for _, read := range []func(*Status) error{in.readPrograms, in.readFill, in.readSweeper, in.readReasons, in.readInterfaces, in.readMarks} {
		if err := read(s); err != nil {
			return nil, err
		}
	}
	if !s.Features.JIT {
		s.Advice = append(s.Advice, "the eBPF JIT is off, everything is slow: sysctl -w net.core.bpf_jit_enable=1")
	}
	return s, nil
}

// readPrograms tells of programs of another version, and of pins that are not what they should be.
func (in *instance) readPrograms(s *Status) error {
	r, err := readRelease(in.dir)
	if err != nil {
		return err
	}
	own := ownRelease()
	s.Programs = Programs{Running: r.String(), Own: own.String(), Layout: int(r.Layout), UpgradeDue: r != own}
	if s.Programs.UpgradeDue {
		s.Advice = append(s.Advice, "the programs that run are those of another version: `director upgrade` replaces them, and keeps every connection")
	}
	f, err := findRunning(in.dir)
	if err != nil {
		return err
	}
	defer f.close()
	for _, wrong := range f.wrong {
		s.Advice = append(s.Advice, "damaged pins: "+wrong+"; `director upgrade` mends it, and keeps every connection")
	}
	return nil
}

func features() Features {
	var u unix.Utsname
	unix.Uname(&u)
	_, btf := os.Stat("/sys/kernel/btf/vmlinux")
	jit, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	return Features{
		Kernel: unix.ByteSliceToString(u.Release[:]), BTF: btf == nil, TCX: haveTCX(),
		JIT: err != nil || strings.TrimSpace(string(jit)) != "0", // kernels that always compile have no switch
	}
}

func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	return err == nil
}

func (in *instance) readFill(s *Status) (err error) {
	table, err := in.entries()
	if err != nil {
		return err
	}
	s.Conns = Fill{Used: table.live(), Size: in.size()}
	s.Services = Fill{Size: len(in.services) - 1}
	s.Servers = Fill{Size: len(in.servers) - 1}
	for _, v := range in.live() {
		s.Services.Used++
		for range in.members(v) {
			s.Servers.Used++
		}
	}
	c, err := loadBpf()
	if err != nil {
		return err
	}
	for name := range c.Maps {
		m, err := in.m(mapPin(name))
		if errors.Is(err, ErrDamaged) {
			continue // it is told already
		}
		if err != nil {
			return err
		}
		n := memoryOf(&ebpf.MapSpec{Type: m.Type(), MaxEntries: m.MaxEntries(), KeySize: m.KeySize(), ValueSize: m.ValueSize()}, in.cpus)
		s.MemoryBytes += n
		if slices.Contains(tableMaps, name) {
			s.TableBytes += n
		}
	}
	return nil
}

func (in *instance) readSweeper(s *Status) error {
	m, err := in.m(bpfMapSweepers)
	if err != nil {
		return err
	}
	var w bpfSweeper
	if err := m.Lookup(uint32(0), &w); err != nil {
		return err
	}
	s.Sweeps, s.Expired, s.Shed = w.Rounds, w.Ended-w.Shed, w.Shed
	return nil
}

func (in *instance) readReasons(s *Status) error {
	m, err := in.m(bpfMapReasons)
	if err != nil {
		return err
	}
	names, err := reasonNames()
	if err != nil {
		return err
	}
	for r := bpfReasonREASON_NONE + 1; r < bpfReasonREASONS; r++ {
		var n []uint64
		if err := m.Lookup(uint32(r), &n); err != nil {
			return err
		}
		one := Reason{Name: names[r], Meaning: meanings[r]}
		for _, v := range n {
			one.Packets += v
		}
		s.Reasons = append(s.Reasons, one)
	}
	return nil
}
