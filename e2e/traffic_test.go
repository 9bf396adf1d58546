// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
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
	text, err := carry(named(ts, args[0]), args[1], "--json", "--bytes", "100M", "--bitrate", "400M")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), text, 0o644))
}

// carry runs a client of iperf3 once the server takes it, and returns its report: between two streams the server does not listen for a
// moment, or is busy with the one before, which is no failure to a client that reports in JSON.
func carry(from *lab.Host, to string, flags ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		text, err := from.Command(ctx, "iperf3", append([]string{"--client", to}, flags...)...).CombinedOutput()
		busy := bytes.Contains(text, []byte("busy running a test"))
		if err == nil && !busy {
			return text, nil
		}
		if !busy && !bytes.Contains(text, []byte("refused")) || ctx.Err() != nil {
			return nil, fmt.Errorf("iperf3: %w: %s", err, text)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// retransmits compares what iperf3 --json says of a stream through the director with what it says of one without. Streams are paced, so
// that no queue overflows and what is lost has a reason; of a machine that stands still for a moment, one packet of a thousand.
func retransmits(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "retransmits PLAIN DIRECTED")
	const segment = 1400
	var counts [2]int
	var sent int
	for i, file := range args {
		var report struct {
			End struct {
				Sent struct {
					Retransmits *int
					Bytes       int
				} `json:"sum_sent"`
			}
		}
		text := ts.ReadFile(file)
		if err := json.NewDecoder(strings.NewReader(text)).Decode(&report); err != nil || report.End.Sent.Retransmits == nil {
			ts.Fatalf("%s: no report of iperf3 (%v): %s", file, err, text)
		}
		counts[i], sent = *report.End.Sent.Retransmits, report.End.Sent.Bytes/segment
	}
	ts.Logf("retransmitted: %d without the director, %d of %d with it", counts[0], counts[1], sent)
	if counts[1] > counts[0]+sent/1000 {
		ts.Fatalf("%d packets were sent again, and %d without the director", counts[1], counts[0])
	}
}
