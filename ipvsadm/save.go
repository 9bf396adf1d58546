// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"

	"lvs"
)

var protocolOptions = map[lvs.Protocol]string{lvs.TCP: "-t", lvs.UDP: "-u", lvs.SCTP: "--sctp-service"}

var forwardOptions = [...]string{lvs.Route: "-g", lvs.Tunnel: "-i", lvs.Masq: "-m", lvs.Local: "-g",
	lvs.FullNAT: "--fullnat"}

var checksumOptions = [...]string{lvs.NoChecksum: "--tun-nocsum", lvs.FullChecksum: "--tun-csum",
	lvs.RemoteChecksum: "--tun-remcsum"}

// rules writes the commands that make the services anew.
func (p *printer) rules(services []*lvs.Service) {
	for _, s := range services {
		name := p.serviceOption(s.ServiceID)
		fmt.Fprintf(p.w, "-A %s%s\n", name, serviceOptionsOf(s))
		for _, l := range s.Locals {
			fmt.Fprintf(p.w, "-P %s %s\n", name, localOptionsOf(l))
		}
		for _, d := range p.order(s.Servers) {
			fmt.Fprintf(p.w, "-a %s -r %s %s\n", name, p.endpoint(d.Addr, d.Port, s.Protocol), serverOptionsOf(d))
		}
	}
}

// locals writes the commands that add local addresses for all services.
func (p *printer) locals(shared []lvs.LocalAddr) {
	for _, l := range shared {
		fmt.Fprintf(p.w, "-P %s\n", localOptionsOf(l))
	}
}

func localOptionsOf(l lvs.LocalAddr) string {
	text := "-z " + l.Addr.String()
	if l.Ports != lvs.DefaultLocalPorts {
		text += " --local-ports " + l.Ports.String()
	}
	return text
}

func (p *printer) serviceOption(id lvs.ServiceID) string {
	if id.Mark == 0 {
		return protocolOptions[id.Protocol] + " " + p.endpoint(id.Addr, id.Port, id.Protocol)
	}
	text := fmt.Sprintf("-f %d", id.Mark)
	if id.Family == lvs.IPv6 {
		text += " -6"
	}
	return text
}

func serviceOptionsOf(s *lvs.Service) string {
	text := " -s " + s.Scheduler
	if s.Persistent != 0 {
		text += fmt.Sprintf(" -p %d", s.Persistent)
		if mask := netmask(s); mask != "" {
			text += " -M " + mask
		}
	}
	if s.PE != "" {
		text += " --pe " + s.PE
	}
	if s.OnePacket {
		text += " -o"
	}
	if s.SchedulerFlags != 0 {
		text += " -b " + schedFlagNames(s.SchedulerFlags, s.Scheduler)
	}
	if s.OnDead != lvs.OnDeadUnset {
		text += " --on-dead " + s.OnDead.String()
	}
	return text
}

// serverOptionsOf gives the options of a server. The original leaves out the thresholds, but reads them.
func serverOptionsOf(d *lvs.Server) string {
	text := fmt.Sprintf("%s -w %d", forwardOptions[d.Forward], d.Weight)
	if d.Upper != 0 {
		text += fmt.Sprintf(" -x %d", d.Upper)
	}
	if d.Lower != 0 {
		text += fmt.Sprintf(" -y %d", d.Lower)
	}
	if d.Forward != lvs.Tunnel {
		return text
	}
	text += " --tun-type " + tunnelRules[d.Tunnel.Type].name
	if d.Tunnel.Type == lvs.GUE {
		text += fmt.Sprintf(" --tun-port %d", d.Tunnel.Port)
	}
	if d.Tunnel.Type != lvs.IPIP {
		text += " " + checksumOptions[d.Tunnel.Checksum]
	}
	return text
}
