// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"lvs"
)

// The order of listings is the original's. It compares by the sign of a 32-bit difference, so 192.168.1.4 comes
// before 10.1.1.1, and three numbers may each be before the next one. What a sort makes of that depends on its
// steps, so they are the steps of the C library's.

// mergeSort sorts as the C library's qsort does.
func mergeSort[T any](s []T, compare func(a, b T) int32) {
	if len(s) < 2 {
		return
	}
	left, right := slices.Clone(s[:len(s)/2]), slices.Clone(s[len(s)/2:])
	mergeSort(left, compare)
	mergeSort(right, compare)
	for i := range s {
		if len(right) == 0 || len(left) > 0 && compare(left[0], right[0]) <= 0 {
			s[i], left = left[0], left[1:]
		} else {
			s[i], right = right[0], right[1:]
		}
	}
}

// addrWords gives an address as four numbers; an IPv4 address is the first of them.
func addrWords(addr netip.Addr) (w [4]uint32) {
	if addr.Is4() {
		b := addr.As4()
		w[0] = binary.BigEndian.Uint32(b[:])
	} else if addr.IsValid() {
		b := addr.As16()
		for i := range w {
			w[i] = binary.BigEndian.Uint32(b[4*i:])
		}
	}
	return w
}

// compareAddrs compares as many words as the first address has.
func compareAddrs(a, b netip.Addr) int32 {
	n := 1
	if a.Is6() {
		n = 4
	}
	wa, wb := addrWords(a), addrWords(b)
	for i := range n {
		if d := int32(wa[i] - wb[i]); d != 0 {
			return d
		}
	}
	return 0
}

func compareServices(a, b *lvs.Service) int32 {
	for _, d := range []int32{
		int32(a.Mark - b.Mark),
		int32(a.Family) - int32(b.Family),
		int32(a.Protocol) - int32(b.Protocol),
		compareAddrs(a.Addr, b.Addr),
	} {
		if d != 0 {
			return d
		}
	}
	return int32(a.Port) - int32(b.Port)
}

func compareServers(a, b *lvs.Server) int32 {
	if d := compareAddrs(a.Addr, b.Addr); d != 0 {
		return d
	}
	return int32(a.Port) - int32(b.Port)
}

// sortedServices gives the services in the order of listings, whatever order they were added in.
func sortedServices(services []*lvs.Service) []*lvs.Service {
	s := slices.Clone(services)
	slices.SortFunc(s, func(a, b *lvs.Service) int { return compareIDs(a.ServiceID, b.ServiceID) })
	mergeSort(s, compareServices)
	return s
}

// compareIDs is an order of services that has no loops.
func compareIDs(a, b lvs.ServiceID) int {
	for _, d := range []int{
		int(a.Mark) - int(b.Mark),
		int(a.Family) - int(b.Family),
		int(a.Protocol) - int(b.Protocol),
		a.Addr.Compare(b.Addr),
	} {
		if d != 0 {
			return d
		}
	}
	return int(a.Port) - int(b.Port)
}

func sortedServers(servers []*lvs.Server) []*lvs.Server {
	s := slices.Clone(servers)
	mergeSort(s, compareServers)
	return s
}
