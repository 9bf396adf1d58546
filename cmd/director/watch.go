// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
)

// again runs show once, or each second until the context ends. On a terminal the screen is drawn anew, as far down as it
// goes.
func again(ctx context.Context, watch bool, show func(io.Writer) error) error {
	if !watch {
		out := bufio.NewWriter(os.Stdout)
		if err := show(out); err != nil {
			return err
		}
		return out.Flush()
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		var text bytes.Buffer
		if err := show(&text); err != nil {
			return err
		}
		if err := redraw(os.Stdout, text.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-second.C:
		}
	}
}

func redraw(out *os.File, text []byte) error {
	_, height, err := term.GetSize(int(out.Fd()))
	if err != nil { // no terminal
		_, err = out.Write(append(text, '\n'))
		return err
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	if len(lines) > height {
		rest := len(lines) - height
		lines = append(lines[:height-1], fmt.Appendf(nil, "... and %d lines more", rest))
	}
	const home, clear = "\x1b[H", "\x1b[J"
	_, err = fmt.Fprintf(out, "%s%s%s", home, clear, bytes.Join(lines, nil))
	return err
}
