// SPDX-License-Identifier: Apache-2.0

package lab

import "testing"

func TestPromises(t *testing.T) {
	for _, c := range []struct {
		about     string
		scheduler string
		weights   []int
		answers   []int
		kept      bool
	}{
		{"rr alternates, newest first", "rr", []int{1, 1}, []int{1, 0, 1, 0, 1}, true},
		{"rr may start anywhere", "rr", []int{1, 1, 1}, []int{1, 0, 2, 1, 0, 2, 1}, true},
		{"rr knows no weights", "rr", []int{1, 3}, []int{1, 0, 1, 0}, true},
		{"rr repeats itself", "rr", []int{1, 1}, []int{1, 1}, false},
		{"rr changes its order", "rr", []int{1, 1, 1}, []int{2, 1, 0, 1}, false},
		{"rr asks a server of weight 0", "rr", []int{1, 0}, []int{1}, false},
		{"wrr gives three of four", "wrr", []int{1, 3}, []int{1, 0, 1, 1, 1, 0, 1, 1}, true},
		{"wrr gives the same from another start", "wrr", []int{1, 3}, []int{1, 1, 1, 0, 1, 1, 1}, true},
		{"wrr divides the weights by what they share", "wrr", []int{20, 10}, []int{0, 0, 1, 0, 0, 1}, true},
		{"wrr is uneven within a cycle", "wrr", []int{1, 3}, []int{1, 1, 1, 1}, false},
		{"wrr is uneven across cycles", "wrr", []int{1, 3}, []int{0, 1, 1, 1, 1, 0}, false},
		{"wrr asks a server of weight 0", "wrr", []int{1, 0}, []int{0, 1}, false},
		{"lc evens out in any order", "lc", []int{1, 1}, []int{1, 0, 0, 1}, true},
		{"lc knows no weights", "lc", []int{1, 5}, []int{1, 0, 1, 0}, true},
		{"lc asks the busier one", "lc", []int{1, 1}, []int{1, 1}, false},
		{"wlc weighs", "wlc", []int{1, 3}, []int{1, 0, 1, 1, 1, 0, 1, 1}, true},
		{"wlc forgets the light one", "wlc", []int{1, 3}, []int{1, 1, 1, 1}, false},
		{"wlc asks a server of weight 0", "wlc", []int{1, 0}, []int{0, 0, 1}, false},
	} {
		t.Run(c.about, func(t *testing.T) {
			if err := promises[c.scheduler].kept(c.weights, c.answers); (err == nil) != c.kept {
				t.Errorf("%s, weights %v, answers %v: %v", c.scheduler, c.weights, c.answers, err)
			}
		})
	}
}

func TestActs(t *testing.T) {
	for _, c := range []struct {
		about string
		o     Options
		want  []act // none: refused
		one   bool  // only one scheduler is to be seen
	}{
		{"nothing said", Options{Requests: 8}, []act{{"rr", []int{1, 1}}, {"wrr", []int{1, 3}}}, false},
		{"weights", Options{Requests: 8, Weights: []int{2, 0, 5}}, []act{{"rr", []int{1, 0, 1}}, {"wrr", []int{2, 0, 5}}}, false},
		{"a scheduler", Options{Requests: 8, Scheduler: "wlc"}, []act{{"wlc", []int{1, 3}}}, false},
		{"one without weights", Options{Requests: 8, Scheduler: "rr"}, []act{{"rr", []int{1, 1}}}, false},
		{"both", Options{Requests: 1, Scheduler: "lc", Weights: []int{4}}, []act{{"lc", []int{4}}}, false},
		{"an unknown scheduler", Options{Requests: 8, Scheduler: "best"}, nil, false},
		{"only zeros", Options{Requests: 8, Weights: []int{0, 0}}, nil, false},
		{"a weight below zero", Options{Requests: 8, Weights: []int{3, -1}}, nil, false},
		{"a weight too large", Options{Requests: 8, Weights: []int{65536}}, nil, false},
		{"too many servers", Options{Requests: 8, Weights: make([]int, mostServers+1)}, nil, false},
		{"one, and nothing said", Options{Requests: 8}, []act{{"rr", []int{1, 1}}}, true},
		{"one, and weights", Options{Requests: 8, Weights: []int{2, 5}}, []act{{"wrr", []int{2, 5}}}, true},
		{"one, and a scheduler", Options{Requests: 8, Scheduler: "wlc"}, []act{{"wlc", []int{1, 3}}}, true},
		{"no requests", Options{}, nil, false},
	} {
		t.Run(c.about, func(t *testing.T) {
			acts, err := c.o.acts(!c.one)
			if (err != nil) != (c.want == nil) || !equal(acts, c.want) {
				t.Errorf("%+v: got %v, %v; want %v", c.o, acts, err, c.want)
			}
		})
	}
}
