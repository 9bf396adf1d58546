// SPDX-License-Identifier: Apache-2.0

package lab

// The networks that scenarios share.
const (
	// The tutorial's network of NAT: the director between two networks.
	twoNetworks = `
		client   interface eth0 outside 172.16.249.10/24 2001:db8:249::10/64
		director interface eth0 outside 172.16.249.57/24 2001:db8:249::57/64
		director interface eth1 inside 192.168.100.1/24 2001:db8:100::1/64
		director sysctl net.ipv4.ip_forward=1
		director sysctl net.ipv6.conf.all.forwarding=1
		server{i} interface eth0 inside 192.168.100.{n}/24 2001:db8:100::{n}/64
		server{i} route default via 192.168.100.1
		server{i} route default via 2001:db8:100::1`
	twoNetworksNames = `
		CIP 172.16.249.10     2001:db8:249::10
		VIP 172.16.249.57     2001:db8:249::57
		DIP 192.168.100.1     2001:db8:100::1
		RIP 192.168.100.{n} 2001:db8:100::{n}`

	// The tutorial's network of DR: everybody in 172.16.0.0/16.
	oneNetwork = `
		client   interface eth0 network 172.16.249.10/16 2001:db8:16::249:10/64
		director interface eth0 network 172.16.200.1/16 172.16.50.50/16 2001:db8:16::200:1/64 2001:db8:16::50:50/64
		server{i} interface eth0 network 172.16.200.{n}/16 2001:db8:16::200:{n}/64`
	oneNetworkNames = `
		CIP 172.16.249.10    2001:db8:16::249:10
		VIP 172.16.50.50     2001:db8:16::50:50
		DIP 172.16.200.1     2001:db8:16::200:1
		RIP 172.16.200.{n} 2001:db8:16::200:{n}`

	// Three networks and a router: the director is nobody's gateway. By itself it speaks as the DIP: of addresses in one
	// network the kernel prefers the first of IPv4, and the last of IPv6.
	threeNetworks = `
		client   interface eth0 clients 172.16.249.10/24 2001:db8:249::10/64
		client   route default via 172.16.249.1
		client   route default via 2001:db8:249::1
		router   interface eth0 clients 172.16.249.1/24 2001:db8:249::1/64
		router   interface eth1 front 172.16.50.1/24 2001:db8:50::1/64
		router   interface eth2 far 192.168.100.1/24 2001:db8:100::1/64
		router   sysctl net.ipv4.ip_forward=1
		router   sysctl net.ipv4.conf.all.rp_filter=0
		router   sysctl net.ipv4.conf.eth2.rp_filter=0
		router   sysctl net.ipv6.conf.all.forwarding=1
		director interface eth0 front 172.16.50.10/24 172.16.50.20/24 172.16.50.50/24 2001:db8:50::50/64 2001:db8:50::20/64 2001:db8:50::10/64
		director route default via 172.16.50.1
		director route default via 2001:db8:50::1
		server{i} interface eth0 far 192.168.100.{n}/24 2001:db8:100::{n}/64
		server{i} route default via 192.168.100.1
		server{i} route default via 2001:db8:100::1`
	threeNetworksNames = `
		CIP 172.16.249.10     2001:db8:249::10
		GW  172.16.249.1      2001:db8:249::1
		VIP 172.16.50.50      2001:db8:50::50
		DIP 172.16.50.10      2001:db8:50::10
		LIP 172.16.50.20      2001:db8:50::20
		RIP 192.168.100.{n} 2001:db8:100::{n}`
)

// natWay is the way of packets through NAT, whatever the service.
const natWay = `
	client → director: CIP → VIP
	director → server: CIP → RIP
	server → director: RIP → CIP
	director → client: VIP → CIP`

var scenarios = []scenario{{
	name:    "nat",
	about:   "the director is the servers' gateway",
	names:   twoNetworksNames,
	hosts:   twoNetworks,
	first:   2,
	between: "director VIP DIP",
	others:  "servers, whose gateway is the DIP",
	service: "-t VIP:80",
	server:  "-r RIP:80 -m",
	both:    true,
	way:     natWay,
	moral:   "the director puts RIP for VIP in requests, and VIP for RIP in answers",
}, {
	name:    "dr",
	about:   "servers answer clients directly, in one network",
	names:   oneNetworkNames,
	hosts:   oneNetwork,
	first:   10,
	others:  "one network: the director, and servers with the VIP on lo",
	before:  []string{"server{i}# director realserver start --mode dr --vip VIP"},
	service: "-t VIP:80",
	server:  "-r RIP:80 -g",
	way: `
		client → director: CIP → VIP
		director → server: CIP → VIP
		server → client: VIP → CIP`,
	moral: "only MAC addresses change, and answers do not pass the director",
}, {
	name:    "tun",
	about:   "servers far away answer clients directly",
	names:   threeNetworksNames,
	hosts:   threeNetworks,
	first:   2,
	between: "router GW",
	others:  "other networks: the director, and servers with the VIP on lo",
	before:  []string{"server{i}# director realserver start --mode tun --vip VIP"},
	service: "-t VIP:80",
	server:  "-r RIP:80 -i",
	way: `
		client → router: CIP → VIP
		router → director: CIP → VIP
		director → router: DIP → RIP, within: CIP → VIP
		router → server: DIP → RIP, within: CIP → VIP
		server → router: VIP → CIP
		router → client: VIP → CIP`,
	moral: "the request travels unchanged within another packet, and answers do not pass the director",
}, {
	name:    "fullnat",
	about:   "servers far away, with a gateway of their own",
	names:   threeNetworksNames,
	hosts:   threeNetworks,
	first:   2,
	between: "router GW",
	others:  "other networks: the director, and servers whose gateway is not the director",
	before: []string{
		"server{i}# director realserver start --mode fullnat --director LIP",
		"director# director laddr add LIP",
	},
	service: "-t VIP:80",
	server:  "-r RIP:80 --fullnat",
	way: `
		client → router: CIP → VIP
		router → director: CIP → VIP
		director → router: LIP → RIP
		router → server: LIP → RIP
		server → router: RIP → LIP
		router → director: RIP → LIP
		director → router: VIP → CIP
		router → client: VIP → CIP
		director → router: LIP → RIP, with the CIP
		router → server: LIP → RIP, with the CIP`,
	moral: "servers answer the LIP, whatever their gateway, and a TCP option (TOA) has told them of the client",
}, {
	name:    "fwmark",
	about:   "a service for what a firewall marks",
	names:   twoNetworksNames,
	hosts:   twoNetworks,
	first:   2,
	between: "director VIP DIP",
	others:  "servers, whose gateway is the DIP",
	marks:   []mark{{port: 80, mark: 5}},
	service: "-f 5 FAMILY",
	server:  "-r RIP -m",
	ports:   []uint16{80, 8080},
	stray:   8080,
	way:     natWay,
	moral:   "the service is a mark, and knows neither address nor port: those are the firewall's business",
}, {
	name:  "persistence",
	about: "what keeps a client at its server: PPC, PCC, PFWMC",
	names: twoNetworksNames + `
		C2  172.16.249.20     2001:db8:249::20`,
	hosts: twoNetworks + `
		client2  interface eth0 outside 172.16.249.20/24 2001:db8:249::20/64`,
	first:   2,
	between: "director VIP DIP",
	others:  "servers, whose gateway is the DIP",
	marks:   []mark{{port: 80, mark: 99}, {port: 443, mark: 99}},
	ports:   []uint16{80, 443, 8080},
	play:    (*stage).persist,
}}
