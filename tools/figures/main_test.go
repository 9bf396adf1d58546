// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const printed = `goos: linux
pkg: lvs/x
cpu: A <CPU>
BenchmarkKnown/xdp/DR-2   	20	 120.5 exact-ns	 60.25 ns	 0.5 x-exact	 1.5 ±ns
BenchmarkKnown/tc/DR-2    	20	 100 exact-ns	 150 ns	 1.5 x-exact	 2 ±ns
BenchmarkSweep/0-2        	10	 0.0213 ns/line
BenchmarkFirst-2          	10	 21500000 ns/op
PASS
`

func TestFigures(t *testing.T) {
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "t.md"), filepath.Join(dir, "p.svg")}
	if err := run(files, strings.NewReader(printed)); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"on A <CPU>.", "## x Known\n\n| | exact-ns | ns | x-exact | ±ns |\n|---|---|---|---|---|\n| xdp/DR | 120 | 60.2 | 0.50 | 1.50 |\n",
		"## x First\n\n| | ms/op |\n|---|---|\n|  | 21.5 |\n",
		"## x Sweep\n\n| | ns/line |\n|---|---|\n| 0 | 0.02 |\n",
	} {
		if !strings.Contains(string(md), want) {
			t.Errorf("the table lacks %q:\n%s", want, md)
		}
	}
	svg, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	bars := 0
	for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 5 { // with the ground
		t.Errorf("%d rectangles:\n%s", bars, svg)
	}
}

func TestNothingToShow(t *testing.T) {
	for _, args := range [][]string{{"one"}, {t.TempDir() + "/t", t.TempDir() + "/p"}} {
		if err := run(args, strings.NewReader("PASS\n")); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
