// SPDX-License-Identifier: Apache-2.0

package simulate

import "time"

// Result is what a scheduler made of the load.
type Result struct {
	Scheduler string   `json:"scheduler"` // with its flags, as [Contender] prints it
	Servers   []Server `json:"servers"`   // in the order of weights
	Conns     int      `json:"conns"`
	Refused   int      `json:"refused"`
	// Fairness is Jain's index of what servers get by weight: 1 is as the weights say, 1/n is one server of n alone.
	ShareFairness float64       `json:"share_fairness"` // of connections
	LoadFairness  float64       `json:"load_fairness"`  // of mean load
	Stays         float64       `json:"stays"`          // of the times that a client came again, those to the same server
	Leave         Move          `json:"leave"`          // what a server's leaving does
	Return        Move          `json:"return"`         // and its coming back
	Span          time.Duration `json:"-"`              // from the first arrival to the last
}

// Server is what a server had to do.
type Server struct {
	Server string    `json:"server"`
	Weight int32     `json:"weight"`
	Conns  int       `json:"conns"`
	Share  float64   `json:"share"` // of all connections that were not refused
	Ideal  float64   `json:"ideal"` // by weight
	Mean   float64   `json:"mean_load"`
	Peak   uint32    `json:"peak_load"`
	Load   []float32 `json:"-"` // over time
}

// Move is what happens to clients as each of them comes once more after a server has left or come back.
type Move struct {
	Clients  int `json:"clients"`  // how many there are
	Expected int `json:"expected"` // of these had the server that left, or have the one that came back
	Moved    int `json:"moved"`    // of the others have another server than before
	Refused  int `json:"refused"`
}

// Part is the share of clients that moved, of those who need not have.
func (m Move) Part() float64 {
	if others := m.Clients - m.Expected; others > 0 {
		return float64(m.Moved) / float64(others)
	}
	return 0
}

func (p *play) result(c Contender) Result {
	r := Result{Scheduler: c.String(), Refused: p.refused, Span: p.now - p.began}
	var weights, served int
	for i := range p.tallies {
		p.tallies[i].move(p.now, 0)
		weights += int(p.Weights[i])
		served += p.tallies[i].conns
	}
	r.Conns = served + p.refused
	if p.stays[0] > 0 {
		r.Stays = float64(p.stays[1]) / float64(p.stays[0])
	}
	var shares, loads jain
	for i := range p.tallies {
		t, weight := &p.tallies[i], p.Weights[i]
		s := Server{Server: serverID(i).String(), Weight: weight, Conns: t.conns, Ideal: float64(weight) / float64(weights), Peak: t.peak, Load: t.series}
		if served > 0 {
			s.Share = float64(t.conns) / float64(served)
		}
		if span := t.since - p.began; span > 0 {
			s.Mean = t.area / span.Seconds()
		}
		if weight > 0 {
			shares.add(float64(t.conns) / float64(weight))
			loads.add(s.Mean / float64(weight))
		}
		r.Servers = append(r.Servers, s)
	}
	r.ShareFairness, r.LoadFairness = shares.index(), loads.index()
	return r
}

// jain sums up what Jain's index of fairness is made of.
type jain struct{ n, sum, squares float64 }

func (j *jain) add(x float64) {
	j.n++
	j.sum += x
	j.squares += x * x
}

func (j *jain) index() float64 {
	if j.squares == 0 {
		return 1
	}
	return j.sum * j.sum / (j.n * j.squares)
}
