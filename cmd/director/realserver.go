// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"

	"lvs/realserver"
)

type realserverVerb struct {
	Start  realserverStart  `cmd:"" help:"Make this host a real server, or have it serve more addresses or modes."`
	Stop   realserverStop   `cmd:"" help:"Return everything that start has changed to what it was."`
	Status realserverStatus `cmd:"" help:"What is active. Exits with 0, or with 3 when nothing is."`
}

// Help is what --help adds.
func (realserverVerb) Help() string {
	return `What runs on a real server, in place of the script that tutorials end with. On the director, which servers there are
is said with ipvsadm.

Examples:
  director realserver start --mode dr --vip 192.0.2.1
  director realserver start --mode tun --vip 192.0.2.1,2001:db8::1
  director realserver status
  director realserver stop`
}

type realserverStart struct {
	Mode     string   `required:"" enum:"dr,tun,fullnat" placeholder:"MODE" help:"How the director sends: dr (ipvsadm -g), tun (-i) or fullnat."`
	VIP      []string `name:"vip" sep:"," placeholder:"A" help:"Virtual addresses, IPv4 and IPv6. They are put on lo, and the network does not hear of them."`
	GUEPort  []uint16 `name:"gue-port" sep:"," placeholder:"PORT" help:"For tun: UDP ports that GUE comes to, as in ipvsadm --tun-port (default 6080)."`
	Decap    string   `enum:"program,kernel" default:"program" help:"For tun: who takes packets out of tunnels: our program, or the kernel's devices."`
	Director []string `sep:"," placeholder:"NET" help:"For fullnat: addresses that directors send from; others are not believed who the client is (default: all are)."`
}

// Help is what --help adds.
func (realserverStart) Help() string {
	return `Virtual addresses are put on lo, each alone in its network; with one of IPv4, arp_ignore is set to 1 and arp_announce to 2
for all and lo. IPv6 neighbours are not told of an address on lo anyway.

tun takes packets out of IP in IP, GRE and GUE, each of IPv4 and IPv6 in IPv4 and IPv6. A program does that at the
interfaces that are up, only for packets to a virtual address, and needs no kernel module. With --decap kernel it is the kernel's
devices: tunl0, sit0, ip6tnl0, gre0, ip6gre0 and a GUE port. They put fragments together and know the options of GUE
(ipvsadm --tun-remcsum); but they take in whatever anybody sends, no GRE with a checksum, and IPv4 in IPv6 in GRE only. Modules that
are loaded for them stay loaded. Strict rp_filter becomes loose where packets come in.

fullnat needs no virtual address. Where the director adds the client's address to the first packets of a TCP connection (TOA,
option 254), accept and getpeername answer with that address, to programs that know nothing of it. Whoever can reach
the server directly can claim any address: name the directors, or keep others away with a firewall.

Start can be repeated, and goes on where it was cut short: after an interface has come up, or with more addresses or another mode.
What it does lasts until stop or a reboot; director-realserver.service does it at each boot.

Examples:
  director realserver start --mode dr --vip 192.0.2.1
  director realserver start --mode tun --vip 192.0.2.1,2001:db8::1 --gue-port 5555
  director realserver start --mode fullnat --director 10.0.0.0/24`
}

func addresses(texts []string) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("virtual address: %w", err)
		}
		all = append(all, a)
	}
	return all, nil
}

func prefixes(texts []string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if a, err2 := netip.ParseAddr(text); err2 == nil {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("director: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// Run starts.
func (v realserverStart) Run() error {
	vips, err := addresses(v.VIP)
	if err != nil {
		return err
	}
	directors, err := prefixes(v.Director)
	if err != nil {
		return err
	}
	mode := realserver.Mode(v.Mode)
	if mode != realserver.Tunnel && (len(v.GUEPort) > 0 || v.Decap != string(realserver.Program)) {
		return errors.New("--gue-port and --decap are for --mode tun")
	}
	if mode != realserver.FullNAT && len(directors) > 0 {
		return errors.New("--director is for --mode fullnat")
	}
	return realserver.Start(realserver.Options{Mode: mode, VIPs: vips, GUEPorts: v.GUEPort,
		Decap: realserver.Decap(v.Decap), Directors: directors})
}

type realserverStop struct {
	VIP []string `name:"vip" sep:"," placeholder:"A" help:"Only these virtual addresses; with the last one goes everything else, too."`
}

// Help is what --help adds.
func (realserverStop) Help() string {
	return `It finds what is to be undone also where start, or an earlier stop, was killed half-way.

Examples:
  director realserver stop
  director realserver stop --vip 192.0.2.1`
}

// Run stops.
func (v realserverStop) Run() error {
	vips, err := addresses(v.VIP)
	if err != nil {
		return err
	}
	return realserver.Stop(vips)
}

type realserverStatus struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Help is what --help adds.
func (realserverStatus) Help() string {
	return `Examples:
  director realserver status
  director realserver status --json`
}

const stopped exit = 3 // as the Linux Standard Base says of a service that is not running

// Run prints the status.
func (v realserverStatus) Run() error {
	s, err := realserver.Read()
	if err != nil {
		return err
	}
	if v.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(s)
	} else {
		err = printRealserver(os.Stdout, s)
	}
	if err == nil && !s.Running {
		return stopped
	}
	return err
}

func printRealserver(out io.Writer, s *realserver.Status) error {
	if !s.Running {
		_, err := fmt.Fprintln(out, "This host is no real server: director realserver start makes it one.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	list := func(name string, all any) {
		if text := strings.Trim(fmt.Sprint(all), "[]"); text != "" {
			row("%s\t%s", name, text)
		}
	}
	list("modes", s.Modes)
	list("virtual addresses", s.VIPs)
	list("decapsulation by", s.Decap)
	list("GUE ports", s.GUEPorts)
	list("directors", s.Directors)
	row("pinned in\t%s", s.Pins)
	for i, c := range s.Changes {
		row("%s\t%s", map[bool]string{true: "changed"}[i == 0], c)
	}
	for _, counts := range [][]realserver.Count{s.Tunnelled, s.Clients} {
		for i, c := range counts {
			if i == 0 {
				row("\nWHAT\tHOW OFTEN\t")
			}
			row("%s\t%d\t%s", c.Name, c.Count, c.Meaning)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if !s.Complete {
		fmt.Fprintln(out, "\nadvice: a start or a stop was cut short; repeat it")
	}
	for _, m := range s.Missing {
		fmt.Fprintf(out, "\nadvice: somebody else has undone %q; start again\n", m)
	}
	return nil
}
