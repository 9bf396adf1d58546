// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lvs/lab"
)

// respond answers each datagram with the name of the host, and as many bytes, until the story ends.
func respond(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "respond HOST ADDRESS...")
	h := named(ts, args[0])
	for _, address := range args[1:] {
		ts.Check(h.Do(func() error {
			c, err := net.ListenPacket("udp", address)
			if err != nil {
				return err
			}
			ts.Defer(func() { c.Close() })
			go func() {
				for b := make([]byte, 1<<16); ; {
					n, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					c.WriteTo(fmt.Appendf(nil, "%-*s", n, h.Name), from)
				}
			}()
			return nil
		}))
	}
}

// ask sends datagrams, each from a port of its own until the story ends, and prints the answers.
func ask(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && (len(args) == 3 || len(args) == 4), "ask HOST ADDRESS COUNT [BYTES]")
	h := named(ts, args[0])
	count, err := strconv.Atoi(args[2])
	ts.Check(err)
	question := []byte("who is there?")
	if len(args) == 4 {
		size, err := strconv.Atoi(args[3])
		ts.Check(err)
		question = bytes.Repeat([]byte{'?'}, size)
	}
	for i := range count {
		c, err := h.Dial(context.Background(), "udp", args[1])
		ts.Check(err)
		ts.Defer(func() { c.Close() }) // else a later question may come from its port, and be of its connection
		c.SetDeadline(time.Now().Add(patience / 3))
		b := make([]byte, 1<<16)
		_, err = c.Write(question)
		n := 0
		if err == nil {
			n, err = c.Read(b)
		}
		if err != nil {
			ts.Fatalf("datagram %d: %v", i+1, err)
		}
		if n < len(question) {
			ts.Fatalf("datagram %d: an answer of %d bytes", i+1, n)
		}
		fmt.Fprintf(ts.Stdout(), "%s\n", bytes.TrimRight(b[:n], " "))
	}
}

// iperf3 prints the report of a stream.
func iperf3(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "iperf3 HOST ADDRESS FLAG...")
	text, err := carry(named(ts, args[0]), args[1], args[2:]...)
	ts.Check(err)
	ts.Stdout().Write(text)
}

// stream keeps the report of a paced stream in a file.
func stream(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "stream HOST ADDRESS FILE")
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), paced(ts, args[0], args[1]), 0o644))
}

func paced(ts *testscript.TestScript, host, to string) []byte {
	report, err := carry(named(ts, host), to, "--json", "--bytes", "100M", "--bitrate", "400M")
	ts.Check(err)
	return report
}

// carry runs a client of iperf3 once the server takes it, and returns its report: between two streams the server does not listen for a
// moment, or is busy with the one before. Neither is a failure to a client that reports in JSON.
func carry(from *lab.Host, to string, flags ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		text, err := from.Command(ctx, "iperf3", append([]string{"--client", to}, flags...)...).CombinedOutput()
		later := bytes.Contains(text, []byte("busy running a test")) || bytes.Contains(text, []byte("Connection refused"))
		if err == nil && !later {
			return text, nil
		}
		if !later || ctx.Err() != nil {
			return nil, fmt.Errorf("iperf3: %w: %s", errors.Join(err, ctx.Err()), text)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// retransmits compares what is sent again of a paced stream through the director with what a report says of one without. They are paced,
// so that no queue overflows and what is lost has a reason. A machine that stands still for a moment loses packets too, but not each time.
func retransmits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "retransmits HOST ADDRESS FILE")
	plain, _ := resent(ts, []byte(ts.ReadFile(args[2])))
	const tries = 3
	for range tries {
		again, sent := resent(ts, paced(ts, args[0], args[1]))
		ts.Logf("retransmitted: %d without the director, %d of %d with it", plain, again, sent)
		if again <= plain+sent/1000 {
			return
		}
	}
	ts.Fatalf("more than one packet of a thousand was sent again, %d times, and %d in all without the director", tries, plain)
}

// resent reads what iperf3 --json says: how many packets were sent again, of how many.
func resent(ts *testscript.TestScript, text []byte) (again, sent int) {
	const segment = 1400
	var report struct {
		End struct {
			Sent struct {
				Retransmits *int
				Bytes       int
			} `json:"sum_sent"`
		}
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&report); err != nil || report.End.Sent.Retransmits == nil {
		ts.Fatalf("no report of iperf3 (%v): %s", err, text)
	}
	return *report.End.Sent.Retransmits, report.End.Sent.Bytes / segment
}
