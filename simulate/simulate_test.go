// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lvs"
)

var update = flag.Bool("update", false, "write what is compared with")

// mustSetup gives a small load on servers of these weights.
func mustSetup(t *testing.T, arrivals, duration string, weights ...int32) Setup {
	t.Helper()
	s := Setup{Weights: weights, TimeWait: 2 * time.Minute, Seed: 1, Load: Load{Conns: 8000, Clients: 500, Destinations: 1}}
	if err := errors.Join(s.Load.Arrivals.UnmarshalText([]byte(arrivals)), s.Load.Durations.UnmarshalText([]byte(duration))); err != nil {
		t.Fatal(err)
	}
	return s
}

func mustRun(t *testing.T, s Setup, scheduler string, flags ...string) Result {
	t.Helper()
	list, err := Contenders([]string{scheduler}, flags)
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.Run(context.Background(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	return results[0]
}

func conns(r Result) (list []int) {
	for _, d := range r.Servers {
		list = append(list, d.Conns)
	}
	return list
}

// TestTurns: rr and wrr share out exactly.
func TestTurns(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", 1, 2, 5)
	if r := mustRun(t, s, "wrr"); !slices.Equal(conns(r), []int{1000, 2000, 5000}) || r.ShareFairness != 1 {
		t.Errorf("wrr: %v, fairness %v", conns(r), r.ShareFairness)
	}
	s.Weights = []int32{7, 7, 7, 7}
	if r := mustRun(t, s, "rr"); !slices.Equal(conns(r), []int{2000, 2000, 2000, 2000}) {
		t.Errorf("rr: %v", conns(r))
	}
	s.Weights = []int32{3, 0, 1}
	r := mustRun(t, s, "rr")
	if !slices.Equal(conns(r), []int{4000, 0, 4000}) || r.Servers[0].Ideal != 0.75 {
		t.Errorf("rr with a server of weight 0: %v", conns(r))
	}
	// Jain's index of connections by weight: 4000/3 and 4000
	if want := math.Pow(4./3+4, 2) / (2 * (16./9 + 16)); math.Abs(r.ShareFairness-want) > 1e-9 {
		t.Errorf("fairness %v, want %v", r.ShareFairness, want)
	}
}

// TestLoadOfAConstantStream: ten connections a second, each of two seconds, are twenty at any time.
func TestLoadOfAConstantStream(t *testing.T) {
	s := mustSetup(t, "constant:10/s", "const:2s", 1)
	d := mustRun(t, s, "wlc").Servers[0]
	if d.Peak != 20 || math.Abs(d.Mean-20) > 0.1 {
		t.Errorf("peak %d, mean %v", d.Peak, d.Mean)
	}
	if len(d.Load) != parts || d.Load[parts/2] < 19.9 || d.Load[parts/2] > 20.1 {
		t.Errorf("over time: %v", d.Load)
	}
	s = mustSetup(t, "burst:10/s:40", "const:2s", 1, 1)
	for _, d := range mustRun(t, s, "lc").Servers {
		if d.Peak != 20 || math.Abs(d.Mean-10) > 0.1 {
			t.Errorf("bursts: peak %d, mean %v", d.Peak, d.Mean)
		}
	}
}

// TestLeastConnectionsEvenOut: where connections last unequally, wlc keeps loads nearer to the weights than wrr does.
func TestLeastConnectionsEvenOut(t *testing.T) {
	s := mustSetup(t, "poisson:50/s", "pareto:10s:1.1", 1, 2, 5)
	s.TimeWait = 0
	wrr, wlc := mustRun(t, s, "wrr"), mustRun(t, s, "wlc")
	if wlc.LoadFairness < 0.99 || wlc.LoadFairness < wrr.LoadFairness {
		t.Errorf("fairness of load: wlc %v, wrr %v", wlc.LoadFairness, wrr.LoadFairness)
	}
}

// TestClientsStay: a hash of the client's address knows it again, one of its port does not; persistence makes all stay.
func TestClientsStay(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", 1, 2, 5)
	if r := mustRun(t, s, "sh"); r.Stays != 1 {
		t.Errorf("sh: %v stay", r.Stays)
	}
	if r := mustRun(t, s, "sh", "sh-port"); r.Stays > 0.6 || r.Scheduler != "sh port" {
		t.Errorf("%s: %v stay", r.Scheduler, r.Stays)
	}
	if r := mustRun(t, s, "rr"); r.Stays > 0.5 {
		t.Errorf("rr: %v stay", r.Stays)
	}
	s.Persistent = time.Hour
	if r := mustRun(t, s, "rr"); r.Stays != 1 {
		t.Errorf("rr with persistence: %v stay", r.Stays)
	}
	s.Persistent = time.Nanosecond // lasts only while the client has connections
	if r := mustRun(t, s, "rr"); r.Stays < 0.6 || r.Stays == 1 {
		t.Errorf("rr with persistence that is soon over: %v stay", r.Stays)
	}
}

// TestAServerLeaves: mh moves hardly a client of the others, sh many, unless the server is only quiesced and its slots
// stay; and whoever had to go comes home.
func TestAServerLeaves(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", 1, 1, 1, 1)
	s.Leaver = 2
	mh, sh := mustRun(t, s, "mh"), mustRun(t, s, "sh")
	for _, r := range []Result{mh, sh} {
		if r.Leave.Clients != 500 || r.Leave.Expected < 80 || r.Leave.Expected > 170 || r.Leave.Refused != 0 {
			t.Errorf("%s: %+v", r.Scheduler, r.Leave)
		}
	}
	if mh.Leave.Part() > 0.1 || sh.Leave.Part() < 0.4 {
		t.Errorf("moved: mh %v, sh %v", mh.Leave.Part(), sh.Leave.Part())
	}
	if mh.Return.Expected != mh.Leave.Expected {
		t.Errorf("mh: %d left, %d came back", mh.Leave.Expected, mh.Return.Expected)
	}
	s.Quiesce = true
	r := mustRun(t, s, "sh")
	if r.Leave.Moved != 0 || r.Leave.Refused < 80 || r.Return.Moved != 0 || r.Return.Refused != 0 {
		t.Errorf("sh, quiesced: %+v, %+v", r.Leave, r.Return)
	}
	r = mustRun(t, s, "sh", "sh-fallback")
	if r.Leave.Moved != 0 || r.Leave.Refused != 0 || r.Leave.Expected < 80 {
		t.Errorf("sh with fallback, quiesced: %+v", r.Leave)
	}
}

// TestDestinations: dh knows only where to, so one destination is one server's, and many are everybody's.
func TestDestinations(t *testing.T) {
	s := mustSetup(t, "constant:10/s", "const:1s", 1, 1)
	if r := mustRun(t, s, "dh"); r.ShareFairness != 0.5 {
		t.Errorf("one destination: %v", conns(r))
	}
	s.Load.Destinations = 1000
	if r := mustRun(t, s, "dh"); r.ShareFairness < 0.99 {
		t.Errorf("a thousand destinations: %v", conns(r))
	}
}

func TestOverflowRefuses(t *testing.T) {
	s := mustSetup(t, "constant:10/s", "const:10s", 10, 20)
	r := mustRun(t, s, "ovf")
	if r.Servers[0].Peak != 11 || r.Servers[1].Peak != 21 || r.Refused == 0 || r.Conns != 8000 {
		t.Errorf("%+v", r)
	}
}

// TestSeed: the same seed gives the same results, however many run at once; another seed gives others.
func TestSeed(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", 1, 2, 5)
	list, err := Contenders([]string{"all"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Int64
	all, err := s.Run(context.Background(), list, &done)
	if err != nil || len(all) != len(lvs.Schedulers) || done.Load() != s.Total(len(list)) {
		t.Fatalf("%d results, %d of %d connections, %v", len(all), done.Load(), s.Total(len(list)), err)
	}
	for i, name := range lvs.Schedulers {
		if again := mustRun(t, s, name); !reflect.DeepEqual(again, all[i]) {
			t.Errorf("%s differs from itself", name)
		}
	}
	s.Seed = 2
	if reflect.DeepEqual(mustRun(t, s, "twos"), all[len(all)-1]) {
		t.Error("another seed makes no difference")
	}
}

func TestInterrupted(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", 1)
	s.Load.Conns = 1 << 20
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if _, err := s.Run(ctx, []Contender{{Scheduler: "rr"}}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestReplay(t *testing.T) {
	for _, text := range []string{
		"time,client,duration\n0,10.1.0.1:5000,2\n1,10.1.0.2,2s\n1.5,10.1.0.1:5001,500ms\n",
		"# by hand\n1s 10.1.0.2 2\n\n0 10.1.0.1:5000 2\n1500ms 10.1.0.1:5001 0.5 192.0.2.9:443\n",
	} {
		replay, err := ReadReplay(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		r := mustRun(t, Setup{Weights: []int32{1, 1}, Load: Load{Replay: replay}}, "rr")
		if !slices.Equal(conns(r), []int{1, 2}) || r.Leave.Clients != 2 || r.Span != 1500*time.Millisecond {
			t.Errorf("%+v", r)
		}
		if r := mustRun(t, Setup{Weights: []int32{1, 1}, Load: Load{Replay: replay}}, "sh"); r.Stays != 1 {
			t.Errorf("sh: %v stay", r.Stays)
		}
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "no connections",
		"0,10.1.0.1":                 "line 1: 2 fields: a line is TIME,CLIENT[:PORT],DURATION",
		"0,10.1.0.1,1\nx,10.1.0.1,1": `line 2: "x" is no time`,
		"0,10.1.0.1,-1s":             `"-1s" is no time`,
		"0,host,1":                   `"host" is not of the form ADDRESS`,
		"NaN,10.1.0.1,1":             `"NaN" is no time`,
		"1e300,10.1.0.1,1":           `"1e300" is no time`,
	} {
		if _, err := ReadReplay(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{"", "poisson", "poisson:200", "poisson:0/s", "poisson:-1/s", "poisson:200/d", "poisson:1/s:2", "burst:1/s", "burst:1/s:0", "often:1/s", "constant:Inf/s", "constant:NaN/s"} {
		if err := new(Arrivals).UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), "poisson:200/s") {
			t.Errorf("arrivals %q: %v", text, err)
		}
	}
	for _, text := range []string{"", "exp", "exp:3", "exp:-3s", "exp:3s:2", "pareto:3s:1", "pareto:3s:NaN", "long:3s"} {
		if err := new(Durations).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("durations %q are taken", text)
		}
	}
	for _, c := range []struct {
		names, flags []string
		want         string
	}{
		{[]string{"best"}, nil, `schedulers: "best" is none: there are all, rr, wrr,`},
		{[]string{"rr"}, []string{"sh-port"}, "sh is not among the schedulers"},
		{[]string{"all"}, []string{"wlc-port"}, "is none: there are sh-port"},
	} {
		if _, err := Contenders(c.names, c.flags); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v", c.names, c.flags, err)
		}
	}
	for want, break_ := range map[string]func(*Setup){
		"weights, of which there are: 0, and it can be 1 to 4096": func(s *Setup) { s.Weights = nil },
		"weights: a weight is 0 to 65535":                         func(s *Setup) { s.Weights = []int32{-1} },
		"weights: one server at least":                            func(s *Setup) { s.Weights = []int32{0, 0} },
		"leave: 4, and it can be 0 to 3":                          func(s *Setup) { s.Leaver = 4 },
		"time-wait: a time is not negative":                       func(s *Setup) { s.TimeWait = -1 },
		"conns: 0, and it can be 1 to":                            func(s *Setup) { s.Load.Conns = 0 },
		"clients: -1, and it can be 1 to":                         func(s *Setup) { s.Load.Clients = -1 },
		"destinations: 0, and it can be 1 to":                     func(s *Setup) { s.Load.Destinations = 0 },
	} {
		s := mustSetup(t, "poisson:200/s", "exp:3s", 1, 2, 5)
		break_(&s)
		if _, err := s.Run(context.Background(), []Contender{{Scheduler: "rr"}}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestPictures compares what is printed and drawn with what was looked at.
func TestPictures(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", 1, 2, 5)
	s.Load.Conns = 2000
	list, err := Contenders([]string{"rr", "wlc", "sh", "ovf"}, []string{"sh-fallback"})
	if err != nil {
		t.Fatal(err)
	}
	results, err := s.Run(context.Background(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	for file, draw := range map[string]func(io.Writer) error{
		"table.txt": func(out io.Writer) error {
			return errors.Join(s.Table(out, results), s.Chart(out, results, 40, false), s.Chart(out, results, 40, true))
		},
		"picture.svg": func(out io.Writer) error { return s.SVG(out, results) },
	} {
		var got bytes.Buffer
		if err := draw(&got); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join("testdata", file)
		if *update {
			if err := os.WriteFile(name, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not what it was; look at it, and then go test -update ./simulate", file)
		}
	}
	file, err := os.Open(filepath.Join("testdata", "picture.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for d := xml.NewDecoder(file); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

// TestMoreServersThanColours: whoever has many servers gets ranges, and colours again.
func TestMoreServersThanColours(t *testing.T) {
	s := mustSetup(t, "poisson:200/s", "exp:3s", slices.Repeat([]int32{2}, 300)...)
	results := []Result{mustRun(t, s, "wrr")}
	var out bytes.Buffer
	if err := errors.Join(s.Table(&out, results), s.Chart(&out, results, 40, false), s.SVG(&out, results)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "0.3 to 0.3") {
		t.Error(out.String())
	}
}

func BenchmarkConnections(b *testing.B) {
	for _, name := range lvs.Schedulers {
		b.Run(name, func(b *testing.B) {
			s := Setup{Weights: []int32{1, 2, 5}, TimeWait: 2 * time.Minute, Load: Load{Conns: b.N, Clients: 1000, Destinations: 1}}
			s.Load.Arrivals.UnmarshalText([]byte("poisson:200/s"))
			s.Load.Durations.UnmarshalText([]byte("exp:3s"))
			if _, err := s.Run(context.Background(), []Contender{{Scheduler: name}}, nil); err != nil {
				b.Fatal(err)
			}
		})
	}
}
