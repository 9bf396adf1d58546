// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

var web = ServiceID{Family: IPv4, Protocol: TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}

func serverNumber(n int) ServerID {
	return ServerID{netip.AddrFrom4([4]byte{192, 168, 0, byte(n)}), 80}
}

// mustMake gives a table with services whose servers are numbers, newest first, each with a weight of its number.
func mustMake(t *testing.T, services map[ServiceID][]int) *Table {
	t.Helper()
	table := &Table{}
	for id, servers := range services {
		if err := table.AddService(id, ServiceConfig{Scheduler: "rr"}); err != nil {
			t.Fatal(err)
		}
		for _, n := range slices.Backward(servers) {
			if err := table.AddServer(id, serverNumber(n), ServerConfig{Forward: Masq, Weight: int32(n)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return table
}

func numbers(s *Service) (n []int) {
	for _, d := range s.Servers {
		n = append(n, int(d.Addr.As4()[3]))
	}
	return n
}

func TestFollowKeepsOrder(t *testing.T) {
	for _, c := range []struct {
		has, wants, becomes, pruned []int
	}{
		{[]int{3, 1, 2}, []int{1, 2, 3}, []int{3, 1, 2}, []int{3, 1, 2}},
		{[]int{3, 1}, []int{4, 3, 2, 1}, []int{4, 2, 3, 1}, []int{4, 2, 3, 1}},
		{[]int{3, 2, 1}, []int{2}, []int{3, 2, 1}, []int{2}},
		{nil, []int{2, 1}, []int{2, 1}, []int{2, 1}},
		{[]int{1}, []int{5}, []int{5, 1}, []int{5}},
	} {
		for prune, becomes := range map[bool][]int{false: c.becomes, true: c.pruned} {
			t.Run(fmt.Sprint(c.has, c.wants, prune), func(t *testing.T) {
				table := mustMake(t, map[ServiceID][]int{web: c.has})
				kept := map[ServerID]*Server{}
				for _, d := range table.Service(web).Servers {
					kept[d.ServerID] = d
				}
				if err := table.Follow(mustMake(t, map[ServiceID][]int{web: c.wants}), prune); err != nil {
					t.Fatal(err)
				}
				if got := numbers(table.Service(web)); !slices.Equal(got, becomes) {
					t.Errorf("the servers are %v, not %v", got, becomes)
				}
				for _, d := range table.Service(web).Servers {
					if was := kept[d.ServerID]; d.Edited || was != nil && was != d {
						t.Errorf("%v was touched", d.ServerID)
					}
				}
			})
		}
	}
}

func TestFollowEditsInPlace(t *testing.T) {
	table := mustMake(t, map[ServiceID][]int{web: {3, 2, 1}})
	want := mustMake(t, map[ServiceID][]int{web: {1, 2, 3}})
	want.Service(web).Server(serverNumber(2)).Weight = 9
	want.Service(web).Scheduler = "wlc"
	want.Timeouts.UDP = 7
	if err := table.Follow(want, true); err != nil {
		t.Fatal(err)
	}
	s := table.Service(web)
	if s.Scheduler != "wlc" || table.Timeouts != (Timeouts{UDP: 7}) || !slices.Equal(numbers(s), []int{3, 2, 1}) {
		t.Errorf("%+v, %+v, %v", s.ServiceConfig, table.Timeouts, numbers(s))
	}
	if d := s.Servers[1]; d.Weight != 9 || !d.Edited || s.Servers[0].Edited || s.Servers[2].Edited {
		t.Errorf("%+v %+v %+v", s.Servers[0], d, s.Servers[2])
	}
}

func TestFollowRemovesOnlyWhenPruning(t *testing.T) {
	other := web
	other.Port = 81
	for _, prune := range []bool{false, true} {
		table := mustMake(t, map[ServiceID][]int{web: {1}, other: {1}})
		if err := table.Follow(mustMake(t, map[ServiceID][]int{web: {1}}), prune); err != nil {
			t.Fatal(err)
		}
		if there := table.Service(other) != nil; there == prune || (len(table.Services()) == 1) != prune {
			t.Errorf("prune %v: %d services, the other is there: %v", prune, len(table.Services()), there)
		}
	}
}
