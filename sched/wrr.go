// SPDX-License-Identifier: Apache-2.0

package sched

// WRR is weighted round robin as the kernel does it. A round is a row of passes over the list: in each, all servers
// whose weight is at least Current have a turn. Current begins at Top and goes down by Step to 1.
type WRR struct {
	Next    int   // index at which the search of this pass begins, 0 to the number of servers
	Current int32 // weight that a server needs in this pass
	Step    int32 // greatest common divisor of the weights that are not 0; 1 if all are
	Top     int32 // Current of the first pass: highest weight less (Step-1); 0 if all weights are 0
}

// NewWRR is the state of a service that is given this scheduler when it has its servers already.
func NewWRR(servers []Server) *WRR {
	w := &WRR{}
	w.measure(servers)
	w.Current = w.Top
	return w
}

func (w *WRR) measure(servers []Server) {
	var g, highest int32
	for i := range servers {
		if weight := servers[i].Weight; weight > 0 {
			g = gcd(g, weight)
			highest = max(highest, weight)
		}
	}
	w.Step = max(g, 1)
	w.Top = highest - (w.Step - 1)
}

// Changed moves to the head of the list. Current stays if it can, also while servers are added to a service, which
// therefore does not begin with a whole round.
func (w *WRR) Changed(before, after []Server) {
	for _, servers := range edits(before, after) {
		w.Next = 0
		w.measure(servers)
		switch {
		case w.Current > w.Top || w.Current == 0:
			w.Current = w.Top
		case w.Step > 1:
			w.Current = w.Current/w.Step*w.Step + 1
		}
	}
}

// Pick answers the first server in what is left of this pass. If there is none, it jumps to the next pass in which there is
// one, and to the first server in that: the kernel walks there pass by pass.
func (w *WRR) Pick(servers []Server, _ Request) int {
	if w.Top == 0 {
		return -1
	}
	if i := w.first(servers, w.Next); i >= 0 {
		w.Next = i + 1
		return i
	}
	var highest int32
	for i := range servers {
		if servers[i].usable() {
			highest = max(highest, servers[i].Weight)
		}
	}
	if highest == 0 {
		if w.Next == 0 || w.Current > w.Step {
			w.Next, w.Current = 0, w.Top
		}
		return -1
	}
	if w.Current -= w.Step; w.Current <= 0 {
		w.Current = w.Top
	}
	w.Current = min(w.Current, highest-(highest-1)%w.Step)
	i := w.first(servers, 0)
	w.Next = i + 1
	return i
}

func (w *WRR) first(servers []Server, from int) int {
	for i := from; i < len(servers); i++ {
		if s := &servers[i]; s.Weight >= w.Current && !s.Overloaded {
			return i
		}
	}
	return -1
}

func gcd(a, b int32) int32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
