// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lvs/lab"
	"lvs/needs"
)

// trouble is what operations do to a director that carries a load: how often, and for how long the load goes on at least.
type trouble struct {
	upgrades, kills, edits, flaps int
	load                          time.Duration
}

// DIRECTOR_TEST_LOAD=60s has all of it.
var (
	someTrouble = trouble{upgrades: 2, kills: 8, edits: 20, flaps: 10}
	allTrouble  = trouble{upgrades: 20, kills: 50, edits: 200, flaps: 100}
)

// way is a forwarding method, with the network that it needs.
type way struct {
	flag, network string
	servers       []string // addresses by which the director knows them
	realserver    string   // what they are told
	listen        string   // the address that they answer at; their own if it is ""
}

const (
	twoArms = `
		client interface eth0 outside 172.16.249.10/16
		director interface eth0 outside 172.16.50.50/16
		director interface eth1 inside 192.168.100.1/24
		director sysctl net.ipv4.ip_forward=1
		server1 interface eth0 inside 192.168.100.2/24
		server1 route default via 192.168.100.1
		server2 interface eth0 inside 192.168.100.3/24
		server2 route default via 192.168.100.1`
	oneArm = `
		client interface eth0 outside 172.16.249.10/16
		director interface eth0 outside 172.16.200.1/16 172.16.50.50/16 172.16.50.20/16
		server1 interface eth0 outside 172.16.200.10/16
		server2 interface eth0 outside 172.16.200.11/16`
	troubledVIP = "172.16.50.50"
)

var (
	beside = []string{"172.16.200.10", "172.16.200.11"}
	ways   = map[string]way{
		"nat":     {flag: "-m", network: twoArms, servers: []string{"192.168.100.2", "192.168.100.3"}},
		"dr":      {flag: "-g", network: oneArm, servers: beside, realserver: "--mode dr --vip " + troubledVIP, listen: troubledVIP},
		"tun":     {flag: "-i", network: oneArm, servers: beside, realserver: "--mode tun --vip " + troubledVIP, listen: troubledVIP},
		"fullnat": {flag: "--fullnat", network: oneArm, servers: beside, realserver: "--mode fullnat --director 172.16.50.20"},
	}
)

// TestNothingFailsInTrouble has requests, datagrams, bulk transfers and idle connections go on by each way of forwarding while programs are
// replaced, commands are killed, tables are edited, and an interface that has nothing to do with it comes and goes.
func TestNothingFailsInTrouble(t *testing.T) {
	needs.NetNS(t)
	needs.BPF(t)
	needs.Programs(t, "curl", "iperf3", "ip")
	bin := mustBuild(t)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	how, hooks := someTrouble, map[string][]string{"nat": {"xdp"}, "dr": {"tc"}, "tun": {"tc"}, "fullnat": {"xdp"}}
	if long := os.Getenv("DIRECTOR_TEST_LOAD"); long != "" {
		how = allTrouble
		var err error
		if how.load, err = time.ParseDuration(long); err != nil {
			t.Fatal(err)
		}
	}
	for name, w := range ways {
		for _, hook := range hooks[name] {
			t.Run(name+"/"+hook, func(t *testing.T) { mustTroubled(t, name, hook, w).play(how) })
		}
	}
}

// troubled is a director under load, with its clients and servers.
type troubled struct {
	*testing.T
	client, director *lab.Host
	way              way
	requests, failed atomic.Int64
	idle             []net.Conn
}

func mustTroubled(t *testing.T, name, hook string, w way) *troubled {
	t.Helper()
	hosts, err := lab.Parse(w.network)
	if err != nil {
		t.Fatal(err)
	}
	d := &troubled{T: t, way: w, client: hosts[0], director: hosts[1]}
	d.director.Leave = []string{"director", "unload"}
	n := &lab.Network{Name: fmt.Sprintf("labtest-%d-%s-%s", os.Getpid(), name, hook), Hosts: hosts, XDP: hook == "xdp"}
	if err := n.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Down(); err != nil {
			t.Error(err)
		}
	})
	for i, h := range hosts[2:] {
		d.serve(h, i)
	}
	if hook == "xdp" {
		d.must(d.director, "director attach --xdp")
	}
	if name == "fullnat" {
		d.must(d.director, "director laddr add 172.16.50.20")
	}
	for _, service := range []string{"-t :80", "-t :7", "-u :53", "-t :5201"} {
		kind, port, _ := strings.Cut(service, " ")
		d.must(d.director, "ipvsadm -A "+kind+" "+troubledVIP+port+" -s wrr")
		for _, server := range w.servers {
			d.must(d.director, "ipvsadm -a "+kind+" "+troubledVIP+port+" -r "+server+port+" "+w.flag)
			if port == ":5201" {
				break // both connections of iperf3 are for the same server
			}
		}
	}
	return d
}

// must runs a command in a host.
func (d *troubled) must(h *lab.Host, line string) string {
	d.Helper()
	words := strings.Fields(line)
	out, err := h.Command(d.Context(), words[0], words[1:]...).CombinedOutput()
	if err != nil {
		d.Errorf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// serve has a real server answer requests with its name, datagrams and bytes with themselves, and iperf3.
func (d *troubled) serve(h *lab.Host, number int) {
	d.Helper()
	if d.way.realserver != "" {
		d.must(h, "director realserver start "+d.way.realserver)
	}
	address := d.way.listen
	if address == "" {
		address = d.way.servers[number]
	}
	listen := func(port string) net.Listener {
		l, err := h.Listen("tcp", address+port)
		if err != nil {
			d.Fatal(err)
		}
		d.Cleanup(func() { l.Close() })
		return l
	}
	go http.Serve(listen(":80"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, h.Name) }))
	echo := listen(":7")
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	err := h.Do(func() error {
		c, err := net.ListenPacket("udp", address+":53")
		if err != nil {
			return err
		}
		d.Cleanup(func() { c.Close() })
		go func() {
			for b := make([]byte, 2048); ; {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo(b[:n], from)
			}
		}()
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	if err := begin(h.Command(d.Context(), "iperf3", "--server", "--forceflush"), "Server listening"); err != nil {
		d.Fatal(err)
	}
}

// play makes the trouble while the load goes on, and judges.
func (d *troubled) play(how trouble) {
	ctx, stop := context.WithCancel(d.Context())
	defer stop()
	const idle = 8
	for range idle {
		c, err := d.client.Dial(ctx, "tcp", troubledVIP+":7")
		if err != nil {
			d.Fatal(err)
		}
		defer c.Close()
		d.idle = append(d.idle, c)
	}
	d.sayAll("before")
	var load, makers sync.WaitGroup
	for _, f := range []func(context.Context){d.curl, d.curl, d.datagrams, d.bulk} {
		load.Go(func() {
			for ctx.Err() == nil && !d.Failed() {
				f(ctx)
				time.Sleep(10 * time.Millisecond) // leaves the machine something
			}
		})
	}
	begin := time.Now()
	for _, f := range []func(trouble){d.upgrade, d.kill, d.edit, d.flap} {
		makers.Go(func() { f(how) })
	}
	makers.Wait()
	if left := how.load - time.Since(begin); left > 0 {
		time.Sleep(left)
	}
	stop()
	load.Wait()
	d.sayAll("after")
	d.Logf("%v: %d requests, %d failed", time.Since(begin).Round(time.Second), d.requests.Load(), d.failed.Load())
	if d.requests.Load() < 100 {
		d.Errorf("only %d requests", d.requests.Load())
	}
	d.check(idle)
}

// check looks at what is left: the idle connections are known, and everything is attached and up to date.
func (d *troubled) check(idle int) {
	kept := 0
	for line := range strings.Lines(d.must(d.director, "ipvsadm -L -n -c")) {
		if strings.Contains(line, troubledVIP+":7 ") && strings.Contains(line, "ESTABLISHED") {
			kept++
		}
	}
	if kept != idle {
		d.Errorf("%d of %d idle connections are in the table", kept, idle)
	}
	var s struct {
		Programs struct {
			Due bool `json:"upgrade_due"`
		}
		Interfaces []struct{ Name, TC, XDP, Egress string }
		Advice     []string
	}
	if err := json.Unmarshal([]byte(d.must(d.director, "director status --json")), &s); err != nil {
		d.Fatal(err)
	}
	if s.Programs.Due || len(s.Advice) > 0 || len(s.Interfaces) < 2 {
		d.Errorf("the status afterwards: %+v", s)
	}
	for _, i := range s.Interfaces {
		if i.TC == "lost" || i.XDP == "lost" || i.Egress == "lost" {
			d.Errorf("the status afterwards: %+v", i)
		}
	}
}

// fail counts what has failed, and tells of it.
func (d *troubled) fail(n int, format string, args ...any) {
	d.failed.Add(int64(n))
	d.Errorf(format, args...)
}

// curl makes some requests, each by a connection of its own.
func (d *troubled) curl(context.Context) {
	const n = 20
	c := d.client.Command(context.WithoutCancel(d.Context()), "curl", "-sS", "-f", "-m", "30", "-H", "Connection: close", "http://"+troubledVIP+"/?[1-"+strconv.Itoa(n)+"]")
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	answered := strings.Count(string(out), "server")
	d.requests.Add(n)
	if err != nil || answered != n {
		d.fail(n-answered, "curl: %d of %d are answered, %v: %s", answered, n, err, said.String())
	}
}

// datagrams asks once from each of some ports.
func (d *troubled) datagrams(context.Context) {
	for i := range 20 {
		question := fmt.Sprint("question ", i)
		c, err := d.client.Dial(context.Background(), "udp", troubledVIP+":53")
		if err != nil {
			d.fail(1, "datagram: %v", err)
			return
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 100)
		n := 0
		if _, err = c.Write([]byte(question)); err == nil {
			n, err = c.Read(b)
		}
		c.Close()
		d.requests.Add(1)
		if err != nil || string(b[:n]) != question {
			d.fail(1, "datagram: %q, %v", b[:n], err)
		}
	}
}

// bulk sends as much as goes along with the rest for some seconds.
func (d *troubled) bulk(context.Context) {
	c := d.client.Command(context.WithoutCancel(d.Context()), "iperf3", "--client", troubledVIP, "--time", "5", "--bitrate", "50M")
	out, err := c.CombinedOutput()
	d.requests.Add(1)
	if err != nil || !strings.Contains(string(out), "iperf Done") {
		d.fail(1, "iperf3: %v: %s", err, out)
	}
}

// sayAll has each idle connection carry a few bytes both ways.
func (d *troubled) sayAll(words string) {
	for i, c := range d.idle {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		b := make([]byte, len(words))
		_, err := c.Write([]byte(words))
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		d.requests.Add(1)
		if err != nil || string(b) != words {
			d.fail(1, "idle connection %d: %q, %v", i, b, err)
		}
	}
}

func (d *troubled) upgrade(how trouble) {
	for range how.upgrades {
		if out := d.must(d.director, "director upgrade --again"); !strings.Contains(out, "connections kept") {
			d.Errorf("an upgrade says %s", out)
		}
	}
}

// kill ends commands of all kinds at any moment.
func (d *troubled) kill(how trouble) {
	commands := []struct {
		line   string
		within time.Duration
	}{
		{"director upgrade --again", 4 * time.Second},
		{"ipvsadm -A -t 10.9.8.7:%d -s rr", 100 * time.Millisecond},
		{"ipvsadm -a -t 10.9.9.9:80 -r 10.9.1.1:%d -m", 100 * time.Millisecond},
		{"ipvsadm -D -t 10.9.8.7:%d", 100 * time.Millisecond},
		{"director attach", 100 * time.Millisecond},
		{"ipvsadm -L -n --stats", 50 * time.Millisecond},
		{"director setting drop_entry=%d", 50 * time.Millisecond},
		{"director status", 100 * time.Millisecond},
	}
	for i := range how.kills {
		one := commands[i%len(commands)]
		line := one.line
		if strings.Contains(line, "%d") {
			line = fmt.Sprintf(line, 1+i%2)
		}
		words := strings.Fields(line)
		c := d.director.Command(d.Context(), words[0], words[1:]...)
		if err := c.Start(); err != nil {
			d.Error(err)
			return
		}
		time.Sleep(rand.N(one.within)) // any moment is as good
		c.Process.Kill()
		c.Wait()
	}
}

// edit changes the weights of the servers that carry the load, and services that carry nothing.
func (d *troubled) edit(how trouble) {
	d.must(d.director, "ipvsadm -A -t 10.9.9.9:80 -s wlc")
	for i := range how.edits {
		other := fmt.Sprintf("10.9.0.%d:80", 1+i/4)
		switch i % 4 {
		case 0:
			d.must(d.director, "ipvsadm -a -t 10.9.9.9:80 -m -r "+other)
		case 1:
			d.must(d.director, fmt.Sprintf("ipvsadm -e -t %s:80 -r %s:80 %s -w %d", troubledVIP, d.way.servers[i/4%2], d.way.flag, 1+rand.N(9)))
		case 2:
			d.must(d.director, "ipvsadm -e -t 10.9.9.9:80 -m -w 7 -r "+other)
		case 3:
			d.must(d.director, "ipvsadm -d -t 10.9.9.9:80 -r "+other)
		}
	}
}

// flap has an interface come and go that carries nothing.
func (d *troubled) flap(how trouble) {
	for range how.flaps {
		d.must(d.director, "ip link add flap type veth peer name flap-end")
		d.must(d.director, "ip link set flap up")
		time.Sleep(rand.N(200 * time.Millisecond)) // any moment is as good
		d.must(d.director, "ip link set flap down")
		d.must(d.director, "ip link delete flap")
	}
}
