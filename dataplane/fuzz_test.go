// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestHostilePackets damages valid packets in thousands of ways.
func TestHostilePackets(t *testing.T) {
	j := mustJudge(t)
	h := hostile{rand.New(rand.NewPCG(1, 2)), j.seeds(t)}
	for range 20_000 {
		for _, frame := range h.frames() {
			if err := j.check(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	if j.sent[tcPass] < 1000 || j.sent[tcRedirect] < 1000 {
		t.Errorf("too few of a kind: %v", j.sent)
	}
	t.Log(j.sent, j.kinds)
}

// TestCutPackets cuts valid packets, and errors about them, at every length; once as they are, and once as packets that are whole.
func TestCutPackets(t *testing.T) {
	j := mustJudge(t)
	valid := j.seeds(t)
	h := hostile{rand.New(rand.NewPCG(3, 4)), valid}
	for i, frame := range valid {
		if _, ok := readFrame(frame); !ok {
			continue
		}
		whole := slices.Clone(frame)
		switch i % 4 {
		case 1:
			whole = h.about(whole)
		case 2:
			whole = h.about(h.tunnel(whole))
		case 3:
			whole = h.about(h.about(whole))
		}
		for n := range min(len(whole), 180) {
			for _, frame := range [][]byte{slices.Clone(whole[:n]), ended(slices.Clone(whole[:n]))} {
				if err := j.check(frame); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Log(j.sent, j.kinds)
}

// ended is a packet whose length is that of the frame.
func ended(frame []byte) []byte {
	switch n := len(frame) - headers; {
	case n >= 40 && frame[12] == 0x86:
		binary.BigEndian.PutUint16(frame[18:], uint16(n-40))
	case n >= 20 && frame[12] == 8:
		binary.BigEndian.PutUint16(frame[16:], uint16(n))
	}
	mend(frame)
	return frame
}

// FuzzPacket does the same with whatever the fuzzer finds, and with what becomes of that.
func FuzzPacket(f *testing.F) {
	j := mustJudge(f)
	valid := j.seeds(f)
	for i, frame := range valid {
		f.Add(frame, uint64(0))
		f.Add(frame, uint64(i+1))
	}
	f.Fuzz(func(t *testing.T, frame []byte, seed uint64) {
		j.t = t // f must not be asked in here
		frames := [][]byte{frame}
		if seed != 0 {
			frames = hostile{rand.New(rand.NewPCG(seed, 0)), append(valid[:len(valid):len(valid)], slices.Repeat([][]byte{frame}, len(valid))...)}.frames()
		}
		for _, frame := range frames {
			if err := j.check(slices.Clone(frame)); err != nil {
				t.Error(err)
			}
		}
	})
}
