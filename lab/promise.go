// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"maps"
	"slices"
)

// promises are what schedulers promise about connections that come one after the other, each closed before the
// next: given the weights of the servers and which of them answered, in order, an error says what was broken.
var promises = map[string]struct {
	words string
	kept  func(weights, answers []int) error
}{
	"rr":  {"the servers answer in turn", inTurn},
	"wrr": {"the servers answer in proportion to their weights", inProportion},
	"lc": {"the server with the fewest connections answers", func(weights, answers []int) error {
		return leastLoaded(alike(weights), answers)
	}},
	"wlc": {"the server with the fewest connections for its weight answers", leastLoaded},
}

// Schedulers are the schedulers whose promises a scenario can judge.
func Schedulers() []string { return slices.Sorted(maps.Keys(promises)) }

// alike gives each server that takes connections weight 1.
func alike(weights []int) []int {
	out := make([]int, len(weights))
	for i, w := range weights {
		out[i] = min(w, 1)
	}
	return out
}

func inTurn(weights, answers []int) error { return inProportion(alike(weights), answers) }

// inProportion: any stretch as long as a whole cycle has of each server exactly its share. Shorter stretches
// have no more than that.
func inProportion(weights, answers []int) error {
	divisor, cycle := 0, 0
	for _, w := range weights {
		divisor = gcd(w, divisor)
		cycle += w
	}
	cycle /= divisor
	seen := make([]int, len(weights))
	for i, a := range answers {
		seen[a]++
		if i >= cycle {
			seen[answers[i-cycle]]--
		}
		if share := weights[a] / divisor; seen[a] > share {
			return fmt.Errorf("request %d: answered %d times by server %d, whose share is %d of %d", i+1, seen[a], a+1, share, cycle)
		}
	}
	return nil
}

// leastLoaded: nobody else has answered less often, for its weight, than the one who answers.
func leastLoaded(weights, answers []int) error {
	load := make([]int, len(weights))
	for i, a := range answers {
		for other, w := range weights {
			if weights[a] == 0 || load[other]*weights[a] < load[a]*w {
				return fmt.Errorf("request %d: answered by server %d, though server %d had less to do", i+1, a+1, other+1)
			}
		}
		load[a]++
	}
	return nil
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
