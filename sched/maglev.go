// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"encoding/binary"
	"math/bits"

	"lvs"
)

// MaglevSize is the number of slots of the table of mh, a prime: CONFIG_IP_VS_MH_TAB_INDEX 12.
const MaglevSize = 4093

const maglevBits = 6 // weights are cut to so many bits: CONFIG_IP_VS_MH_TAB_INDEX / 2

// MaglevKeys are the two words of the key of the first hash of mh, which also hashes clients, and of the second.
var MaglevKeys = [2]uint64{2654435761, 2654446892}

// MaglevTable is the table of mh: the index of the server of each slot, or nil if no server has ever had a weight. The
// weight that counts is the last one that was not 0, so that a server that is set to 0 keeps its slots and no other
// connection moves. It is the algorithm of the Maglev paper (NSDI 2016, section 3.4) with turns by weight.
func MaglevTable(servers []Server) []uint16 {
	var g, highest int32
	for i := range servers {
		if w := servers[i].LastWeight; w > 0 {
			g = gcd(g, w)
			highest = max(highest, w)
		}
	}
	if g == 0 {
		return nil
	}
	shift := max(bits.Len32(uint32(highest/g))-maglevBits, 0)

	table := make([]uint16, MaglevSize)
	taken := make([]bool, MaglevSize)
	at := make([]uint32, len(servers))
	for i := range servers {
		at[i] = MaglevHash(serverKey(&servers[i]), MaglevKeys[0]) % MaglevSize
	}
	for filled := 0; ; {
		for i := range servers {
			w := servers[i].LastWeight
			if w <= 0 {
				continue
			}
			skip := MaglevHash(serverKey(&servers[i]), MaglevKeys[1])%(MaglevSize-1) + 1
			for turns := max(w/g>>shift, 1); turns > 0; turns-- {
				for taken[at[i]] {
					at[i] = (at[i] + skip) % MaglevSize
				}
				taken[at[i]] = true
				table[at[i]] = uint16(i)
				if filled++; filled == MaglevSize {
					return table
				}
			}
		}
	}
}

func serverKey(s *Server) uint32 { return fold(s.ID.Addr) + uint32(s.ID.Port) }

func newMaglev(flags lvs.SchedulerFlags) *hashed {
	return &hashed{
		fill:     MaglevTable,
		key:      source(flags),
		slot:     func(key, offset uint32, n int) int { return int(MaglevHash(offset+key, MaglevKeys[0]) % uint32(n)) },
		fallback: flags&lvs.SchedulerFallback != 0,
	}
}

// MaglevHash is the kernel's hsiphash of a 64 bit little endian machine for four bytes: SipHash-1-3, its low half, with
// the same word twice as the key.
func MaglevHash(v uint32, key uint64) uint32 {
	var data [8]byte
	binary.LittleEndian.PutUint32(data[:], v)
	data[7] = 4 // the length
	m := binary.LittleEndian.Uint64(data[:])

	s := sip{key ^ 0x736f6d6570736575, key ^ 0x646f72616e646f6d, key ^ 0x6c7967656e657261, key ^ 0x7465646279746573}
	s[3] ^= m
	s.round()
	s[0] ^= m
	s[2] ^= 0xff
	for range 3 {
		s.round()
	}
	return uint32(s[0] ^ s[1] ^ s[2] ^ s[3])
}

type sip [4]uint64

func (s *sip) round() {
	s[0] += s[1]
	s[1] = bits.RotateLeft64(s[1], 13) ^ s[0]
	s[0] = bits.RotateLeft64(s[0], 32)
	s[2] += s[3]
	s[3] = bits.RotateLeft64(s[3], 16) ^ s[2]
	s[0] += s[3]
	s[3] = bits.RotateLeft64(s[3], 21) ^ s[0]
	s[2] += s[1]
	s[1] = bits.RotateLeft64(s[1], 17) ^ s[2]
	s[2] = bits.RotateLeft64(s[2], 32)
}
