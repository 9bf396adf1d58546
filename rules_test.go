// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"math"
	"net/netip"
	"testing"
)

func mustServer(addr string) ServerID {
	ap := netip.MustParseAddrPort(addr)
	return ServerID{Addr: ap.Addr(), Port: ap.Port()}
}

func mustService(addr string) ServiceID {
	ap := netip.MustParseAddrPort(addr)
	id := ServiceID{Family: IPv6, Protocol: TCP, Addr: ap.Addr(), Port: ap.Port()}
	if id.Addr.Is4() {
		id.Family = IPv4
	}
	return id
}

var (
	vip4  = mustService("10.0.0.1:80")
	vip6  = mustService("[2001:db8::1]:80")
	known = mustServer("192.168.1.1:80") // a server of vip4
)

func mustTable(t *testing.T) *Table {
	t.Helper()
	var table Table
	for _, err := range []error{
		table.AddService(vip4, ServiceConfig{Scheduler: "wlc", Netmask: math.MaxUint32}),
		table.AddService(vip6, ServiceConfig{Scheduler: "rr", Netmask: 128}),
		table.AddServer(vip4, known, ServerConfig{Weight: 1}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &table
}

// TestServerRules names, for each rule, what the kernel looks at first where two are broken.
func TestServerRules(t *testing.T) {
	gone := mustService("10.0.0.9:80")
	for _, test := range []struct {
		rule      string
		service   ServiceID
		server    string
		config    ServerConfig
		add, edit error
	}{
		{"a new server", vip4, "192.168.1.2:80", ServerConfig{Weight: 1}, nil, ErrNoServer},
		{"a known server", vip4, "192.168.1.1:80", ServerConfig{Weight: 2}, ErrServerExists, nil},
		{"no such service", gone, "224.0.0.1:80", ServerConfig{Weight: -1}, ErrNotDefined, ErrNotDefined},
		{"weight", vip4, "192.168.1.1:80", ServerConfig{Weight: -1}, ErrRange, ErrRange},
		{"thresholds", vip4, "224.0.0.1:80", ServerConfig{Lower: 2, Upper: 1}, ErrRange, ErrRange},
		{"thresholds the other way", vip4, "192.168.1.2:80", ServerConfig{Lower: 1, Upper: 1}, nil, ErrNoServer},
		{"GUE without a port", vip4, "192.168.1.1:80", ServerConfig{Forward: Tunnel, Tunnel: TunnelConfig{Type: GUE}},
			ErrInvalid, ErrInvalid},
		{"multicast", vip4, "224.0.0.1:80", ServerConfig{}, ErrInvalid, ErrNoServer},
		{"broadcast", vip4, "255.255.255.255:80", ServerConfig{}, ErrInvalid, ErrNoServer},
		{"broadcast of lo", vip4, "127.255.255.255:80", ServerConfig{}, ErrInvalid, ErrNoServer},
		{"no address", vip4, "0.0.0.0:80", ServerConfig{}, ErrInvalid, ErrNoServer},
		{"this network", vip4, "0.1.2.3:80", ServerConfig{}, nil, ErrNoServer},
		{"loopback", vip4, "127.0.0.1:80", ServerConfig{}, nil, ErrNoServer},
		{"IPv6 of a unicast address", vip6, "[2001:db8::2]:80", ServerConfig{Forward: Masq}, nil, ErrNoServer},
		{"IPv6 multicast", vip6, "[ff02::1]:80", ServerConfig{Forward: Masq}, ErrInvalid, ErrNoServer},
		{"IPv6 link-local", vip6, "[fe80::1]:80", ServerConfig{Forward: Masq}, ErrInvalid, ErrNoServer},
		{"IPv6 v4-mapped", vip6, "[::ffff:10.0.0.1]:80", ServerConfig{Forward: Masq}, ErrInvalid, ErrNoServer},
		{"IPv6 unspecified", vip6, "[::]:80", ServerConfig{Forward: Masq}, ErrInvalid, ErrNoServer},
		{"another family", vip6, "10.0.0.2:80", ServerConfig{Forward: Masq}, ErrInvalid, ErrInvalid},
		{"another family in a tunnel", vip6, "10.0.0.2:80", ServerConfig{Forward: Tunnel}, nil, ErrNoServer},
	} {
		t.Run(test.rule, func(t *testing.T) {
			if err := mustTable(t).AddServer(test.service, mustServer(test.server), test.config); err != test.add {
				t.Errorf("add: %v, want %v", err, test.add)
			}
			if err := mustTable(t).EditServer(test.service, mustServer(test.server), test.config); err != test.edit {
				t.Errorf("edit: %v, want %v", err, test.edit)
			}
		})
	}
}

func TestServiceRules(t *testing.T) {
	new4, new6 := mustService("10.0.0.2:80"), mustService("[2001:db8::2]:80")
	for _, test := range []struct {
		rule   string
		id     ServiceID
		config ServiceConfig
		want   error
	}{
		{"a new service", new4, ServiceConfig{Scheduler: "mh"}, nil},
		{"no scheduler", new4, ServiceConfig{Scheduler: NoScheduler}, nil},
		{"a known service", vip4, ServiceConfig{Scheduler: "bogus"}, ErrServiceExists},
		{"unknown scheduler", new6, ServiceConfig{Scheduler: "bogus"}, ErrNoScheduler},
		{"unknown engine", new4, ServiceConfig{Scheduler: "rr", PE: "bogus"}, ErrNoScheduler},
		{"engine", new4, ServiceConfig{Scheduler: "rr", PE: "sip"}, nil},
		{"no prefix", new6, ServiceConfig{Scheduler: "rr"}, ErrInvalid},
		{"long prefix", new6, ServiceConfig{Scheduler: "rr", Netmask: 129}, ErrInvalid},
		{"prefix", new6, ServiceConfig{Scheduler: "rr", Netmask: 1}, nil},
	} {
		t.Run(test.rule, func(t *testing.T) {
			table := mustTable(t)
			if err := table.AddService(test.id, test.config); err != test.want {
				t.Errorf("add: %v, want %v", err, test.want)
			}
			if added := table.Service(test.id) != nil; added != (test.want == nil || test.want == ErrServiceExists) {
				t.Errorf("the service is there: %v", added)
			}
		})
	}
	table := mustTable(t)
	if err := table.EditService(new4, ServiceConfig{Scheduler: "bogus"}); err != ErrNoService {
		t.Errorf("edit: %v", err)
	}
	if err := table.EditService(vip4, ServiceConfig{Scheduler: "bogus"}); err != ErrNoScheduler {
		t.Errorf("edit: %v", err)
	}
	if s := table.Service(vip4); s.Scheduler != "wlc" {
		t.Errorf("a refused edit set %q", s.Scheduler)
	}
}

func TestTimeouts(t *testing.T) {
	var table Table
	if got := table.Timeouts.OrDefault(); got != DefaultTimeouts {
		t.Errorf("none set: %+v", got)
	}
	table.SetTimeouts(Timeouts{TCP: 5, UDP: 7})
	table.SetTimeouts(Timeouts{TCP: 6})
	if got, want := table.Timeouts.OrDefault(), (Timeouts{TCP: 6, TCPFin: 120, UDP: 7}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
