// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
)

var crowdSize = flag.Int("crowd", 1<<17, "how many connections TestCrowd makes, up to 4194304; it holds for a million as for fewer")

// crowd is a service of UDP whose clients each send a datagram from a port of their own.
var crowd = path{lvs.UDP, netip.MustParseAddrPort("198.16.0.0:1"), netip.MustParseAddrPort("203.0.113.40:53"), netip.AddrPortFrom(server4, 53)}

// nthClient is one of them; they are beyond any other client of a test.
func nthClient(n uint32) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 16, byte(n >> 14), byte(n >> 6)}), 1024+uint16(n&63))
}

// numberOf is which one a client is.
func numberOf(c netip.AddrPort) int {
	a := c.Addr().As4()
	return int(a[2])<<14 | int(a[3])<<6 | int(c.Port()-1024)
}

// come has a client send one datagram.
func (w *world) come(o *ebpf.RunOptions, n uint32) {
	c := nthClient(n)
	addr := c.Addr().As4()
	copy(o.Data[26:], addr[:])
	binary.BigEndian.PutUint16(o.Data[34:], c.Port())
	if verdict, err := w.tc.Run(o); err != nil || verdict != tcRedirect {
		w.t.Errorf("client %v: verdict %d, %v", c, int32(verdict), err)
	}
}

func (w *world) datagram() *ebpf.RunOptions {
	frame := packet{path: crowd, noChecksum: true}.frame(w.t)
	return &ebpf.RunOptions{Data: frame, Context: contextOf(w.tc, w.clients, frame, 0)}
}

// comeMeanwhile has clients from the first-th on come, and those before it again, on the last CPU, until the function that it answers is called.
func (w *world) comeMeanwhile(first, last uint32) (end func() (came uint32)) {
	w.t.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(w.t, err)
	var all sync.WaitGroup
	var over atomic.Bool
	n, begun := first, make(chan bool, 1)
	all.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread keeps to its CPU and namespace
		if err := errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), pin(runtime.NumCPU()-1)); err != nil {
			w.t.Error(err)
		}
		for o := w.datagram(); !over.Load() && !w.t.Failed(); n++ {
			w.come(o, n%last)
			if n == first {
				begun <- true
			}
		}
		close(begun)
	})
	<-begun
	return func() uint32 {
		over.Store(true)
		all.Wait()
		ns.Close()
		return n - first
	}
}

// mustBuildDirector compiles the binary, and answers with the folder of its names.
func mustBuildDirector(t testing.TB) string {
	t.Helper()
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(bin, "director"), "lvs/cmd/director").CombinedOutput(); err != nil {
		t.Fatalf("building director: %v\n%s", err, out)
	}
	must(t, exec.Command("ln", "-s", "director", filepath.Join(bin, "ipvsadm")).Run())
	return bin
}

// listing is what a command has printed, line by line, and the memory that it took for it.
func (w *world) listing(each func(line string), command ...string) (resident int64) {
	w.t.Helper()
	c := exec.Command(command[0], command[1:]...)
	out, err := c.StdoutPipe()
	must(w.t, err)
	must(w.t, c.Start())
	lines := bufio.NewScanner(out)
	for n := 1; lines.Scan(); n++ {
		each(lines.Text())
		if n%(1<<14) == 0 { // a process's rusage has its parent's memory, too
			resident = max(resident, mustResident(w.t, c.Process.Pid))
		}
	}
	must(w.t, lines.Err())
	must(w.t, c.Wait())
	return resident
}

// mustResident gives the most memory that a process has had so far; 0 if it has ended.
func mustResident(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, found := strings.Cut(string(status), "VmHWM:")
	if !found {
		return 0
	}
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	must(t, err)
	return kib << 10
}

// Many connections are held, counted, listed in little memory while packets come, and gone when their time is over.
func TestCrowd(t *testing.T) {
	crowded := *crowdSize
	w := mustWorld(t, Sizes{Conns: crowded + crowded/4, Services: 4, Servers: 16})
	bin := mustBuildDirector(t)
	w.mustUpdate(addService(crowd.id(), "rr", crowd.server, netip.AddrPortFrom(other4, 53)))
	w.setClock(uint32(kernelClock(w.mustLook().hz)))
	cpus := runtime.NumCPU()
	w.onThreads(cpus, func(cpu int) {
		o := w.datagram()
		for n := cpu; n < crowded && !t.Failed(); n += cpus {
			w.come(o, uint32(n))
		}
	})
	status, err := w.Status()
	must(t, err)
	if status.Conns.Used != crowded || status.Conns.Size < crowded {
		t.Errorf("%+v", status.Conns)
	}
	table, err := w.Table()
	must(t, err)
	half := lvs.Load{Inactive: uint32(crowded / 2)}
	if s := table.Service(crowd.id()); s.Stats.Conns != uint64(crowded) || s.Servers[0].Load != half || s.Servers[1].Load != half {
		t.Errorf("%d connections were counted, servers carry %+v and %+v", s.Stats.Conns, s.Servers[0].Load, s.Servers[1].Load)
	}
	for _, command := range []string{"ipvsadm -Lnc", "director conns", "director conns --json"} {
		end := w.comeMeanwhile(uint32(crowded), uint32(crowded+crowded/8))
		w.mustList(crowded, filepath.Join(bin, command))
		if end() == 0 {
			t.Errorf("%s: no packet came meanwhile", command)
		}
	}
	w.mustExpire()
}

// mustList has a command list all connections of a crowd, each of them once.
func (w *world) mustList(crowded int, command string) {
	w.t.Helper()
	seen, twice, missing := make([]bool, crowded), 0, 0
	resident := w.listing(func(line string) {
		c, ok := clientIn(line)
		if !ok {
			return
		}
		n := numberOf(c)
		if n >= crowded {
			return // has come meanwhile
		}
		if seen[n] {
			twice++
		}
		seen[n] = true
	}, strings.Fields(command)...)
	for _, s := range seen {
		if !s {
			missing++
		}
	}
	command = filepath.Base(command)
	if missing > 0 || twice > 0 {
		w.t.Errorf("%s: %d connections are missing, %d are listed twice", command, missing, twice)
	}
	own := resident - int64(len(w.mustLook().mustConnTable(w.t).segments)*segmentLines*68)
	if own > 40<<20 {
		w.t.Errorf("%s takes %d MiB beside the table", command, own>>20)
	}
	w.t.Logf("%s: %d MiB beside the table", command, own>>20)
}

// clientIn finds the client in a line of a listing, if there is one.
func clientIn(line string) (netip.AddrPort, bool) {
	if strings.HasPrefix(line, "{") {
		var c struct{ Client netip.AddrPort }
		if json.Unmarshal([]byte(line), &c) != nil {
			return netip.AddrPort{}, false
		}
		return c.Client, true
	}
	for field := range strings.FieldsSeq(line) {
		if c, err := netip.ParseAddrPort(field); err == nil && strings.HasPrefix(field, "198.16.") {
			return c, true
		}
	}
	return netip.AddrPort{}, false
}
