// SPDX-License-Identifier: Apache-2.0

package lvs_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// order is the architecture: a package may import those before it. A new package is placed here first.
var order = []string{
	"lvs",
	"lvs/needs",
	"lvs/sched",
	"lvs/simulate",
	"lvs/oracle",
	"lvs/ipvsadm",
	"lvs/saved",
	"lvs/place",
	"lvs/dataplane",
	"lvs/realserver",
	"lvs/lab",
	"lvs/keepalived",
	"lvs/health",
	"lvs/serve",
	"lvs/cmd/director",
	"lvs/e2e",
}

// drawers are names of packages into which anything would fit.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "manager", "base", "misc", "internal", "shared", "lib"}

type listed struct {
	ImportPath, Doc                    string
	Standard                           bool
	Imports, TestImports, XTestImports []string
}

func mustList(t *testing.T, args ...string) []listed {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Doc,Standard,Imports,TestImports,XTestImports"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range mustList(t, "./...") {
		own := slices.Index(order, p.ImportPath)
		if own < 0 {
			t.Errorf("%s has no place in the order of packages", p.ImportPath)
			continue
		}
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if at := slices.Index(order, i); at > own {
				t.Errorf("%s imports %s, which comes after it", p.ImportPath, i)
			}
		}
		for _, i := range p.Imports {
			if p.ImportPath != "lvs/needs" && (i == "testing" || i == "lvs/needs") {
				t.Errorf("%s imports %s, and is no test", p.ImportPath, i)
			}
		}
	}
}

func TestVocabularyStandsOnTheStandardLibraryAlone(t *testing.T) {
	for _, p := range mustList(t, "-deps", ".") {
		if !p.Standard && p.ImportPath != "lvs" {
			t.Errorf("lvs stands on %s", p.ImportPath)
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range mustList(t, "./...") {
		if slices.Contains(drawers, path.Base(p.ImportPath)) {
			t.Errorf("%s: a name into which anything would fit", p.ImportPath)
		}
		if p.Doc == "" && len(p.Imports) > 0 {
			t.Errorf("%s has no doc comment", p.ImportPath)
		}
	}
}
