// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var anew = flag.String("record", "", "write what this kernel's own IPVS answers in testdata/recorded.txt to a file")

// TestRecordAnew plays the recorded stories to the kernel's IPVS, by its own ipvsadm, and writes them with what leaves.
func TestRecordAnew(t *testing.T) {
	if *anew == "" {
		t.Skip("needs -record FILE, and a kernel with IPVS")
	}
	mustNamespace(t)
	wires := mustWires(t)
	for _, a := range []string{"203.0.113.10/32", "2001:db8:f::10/128"} {
		lo, err := netlink.LinkByName("lo")
		must(t, err)
		mustAddress(t, lo, a)
	}
	top, names, stories := mustRecordings(t)
	said := top
	for i, story := range stories {
		said += "== " + names[i] + "\n"
		must(t, exec.Command("ipvsadm", "-C").Run())
		for _, l := range story {
			if l.out != nil {
				continue
			}
			said += l.line() + "\n"
			switch {
			case l.in != nil:
				for _, out := range wires.mustAnswer(t, l.in) {
					said += out.line() + "\n"
				}
			case l.words[0] == "setting":
				name, value, _ := strings.Cut(l.words[1], "=")
				must(t, os.WriteFile("/proc/sys/net/ipv4/vs/"+name, []byte(value), 0))
			default:
				if out, err := exec.Command(l.words[0], l.words[1:]...).CombinedOutput(); err != nil {
					t.Errorf("%v: %v: %s", l.words, err, out)
				}
			}
		}
		said += "\n"
		for _, name := range []string{"pmtu_disc"} {
			must(t, os.WriteFile("/proc/sys/net/ipv4/vs/"+name, []byte("1"), 0))
		}
	}
	must(t, os.WriteFile(*anew, []byte(strings.TrimSuffix(said, "\n")), 0o644))
}

// wires are the far ends of the interfaces of a world.
type wires map[string]int

func mustWires(t *testing.T) wires {
	t.Helper()
	clients := mustInterface(t, "clients", 1500, "198.51.100.1/24", "2001:db8:c::1/64")
	servers := mustInterface(t, "servers", serverMTU, "10.0.0.1/24", "fd00::1/64")
	mustNeighbour(t, clients, client4, clientMAC)
	mustNeighbour(t, clients, client6, clientMAC)
	mustNeighbour(t, servers, server4, serverMAC)
	mustNeighbour(t, servers, server6, serverMAC)
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		must(t, os.WriteFile("/proc/sys/"+s, []byte("1"), 0))
	}
	w := wires{}
	for _, name := range []string{"clients", "servers"} {
		must(t, exec.Command("ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off").Run())
		end, err := netlink.LinkByName(name + "-end")
		must(t, err)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(toPort(unix.ETH_P_ALL)))
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: toPort(unix.ETH_P_ALL), Ifindex: end.Attrs().Index}))
		must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
		w[name] = fd
	}
	time.Sleep(2 * time.Second) // until the kernel has introduced itself to its neighbours
	return w
}

// mustAnswer sends a packet, and gives the frames that leave, once nothing has come for a while.
func (w wires) mustAnswer(t *testing.T, in *packet) (out []recorded) {
	t.Helper()
	from := "clients"
	if in.answer {
		from = "servers"
	}
	_, err := unix.Write(w[from], in.frame(t))
	must(t, err)
	for name, fd := range w {
		for {
			b := make([]byte, 4096)
			n, addr, err := unix.Recvfrom(fd, b, 0)
			if err != nil {
				break
			}
			if isICMP(b[:n]) {
				n = min(n, 98)
			}
			if addr.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && isOfInterest(b[:n]) {
				out = append(out, recorded{by: name, out: b[:n]})
			}
		}
	}
	return out
}

// isOfInterest leaves out what kernels say of themselves.
func isOfInterest(frame []byte) bool {
	const multicast = 1
	return frame[0]&multicast == 0 && frame[12] != 8 || frame[12] == 8 && frame[13] == 0
}
