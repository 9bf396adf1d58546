// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"math"
	"net/netip"
	"strconv"
	"strings"
)

const blanks = " \t\n\v\f\r" // what isspace answers yes to

// parseNumber reads a decimal number as strtol does: leading blanks, a sign, leading zeros.
func parseNumber(s string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimLeft(s, blanks), 10, 64)
	return n, err == nil
}

// leadingNumber reads the decimal number that s begins with as atoi does, and 0 if there is none.
func leadingNumber(s string) int32 {
	s = strings.TrimLeft(s, blanks)
	end := 0
	if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
		end = 1
	}
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, _ := strconv.ParseInt(s[:end], 10, 64) // answers the limit when out of range, as strtol does
	return int32(n)
}

const maxTimeout = 31 * 86400 // seconds

func parseTimeout(s string, least int64) (uint32, error) {
	n, ok := parseNumber(s)
	if !ok || n < least || n > maxTimeout {
		return 0, refuse("invalid timeout value `%s' specified", s)
	}
	return uint32(n), nil
}

// parseIPv4 reads an address as inet_aton does: one to four parts, the last filling what is left, each decimal,
// octal (0) or hexadecimal (0x). A blank ends it.
func parseIPv4(s string) (netip.Addr, bool) {
	if i := strings.IndexAny(s, blanks); i >= 0 {
		s = s[:i]
	}
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var addr uint32
	for i, part := range parts {
		if part == "" || part[0] < '0' || part[0] > '9' {
			return netip.Addr{}, false
		}
		n, err := strconv.ParseUint(cNumber(part))
		most := uint64(math.MaxUint8)
		if i == len(parts)-1 {
			most = math.MaxUint32 >> (8 * i)
		}
		if err != nil || n > most {
			return netip.Addr{}, false
		}
		if i == len(parts)-1 {
			addr |= uint32(n)
		} else {
			addr |= uint32(n) << (24 - 8*i)
		}
	}
	return netip.AddrFrom4([4]byte{byte(addr >> 24), byte(addr >> 16), byte(addr >> 8), byte(addr)}), true
}

// cNumber gives the digits, base and bits of a number in C's notation.
func cNumber(s string) (digits string, base, bits int) {
	switch {
	case strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0X"):
		return s[2:], 16, 64
	case len(s) > 1 && s[0] == '0':
		return s[1:], 8, 64
	}
	return s, 10, 64
}

// parseIPv6 reads an IPv6 address as inet_pton does, which knows no zones.
func parseIPv6(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr, err == nil && addr.Is6() && addr.Zone() == ""
}

// formatAddr prints an address as inet_ntop does, which shows an IPv4 address at the end of an otherwise
// empty IPv6 address in its own notation.
func formatAddr(addr netip.Addr) string { return string(appendAddr(nil, addr)) }

func appendAddr(b []byte, addr netip.Addr) []byte {
	if addr.Is6() {
		a := addr.As16()
		if [12]byte(a[:12]) == [12]byte{} && (a[12] != 0 || a[13] != 0) {
			return netip.AddrFrom4([4]byte(a[12:])).AppendTo(append(b, "::"...))
		}
	}
	return addr.AppendTo(b)
}
