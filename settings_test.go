// SPDX-License-Identifier: Apache-2.0

package lvs_test

import (
	"slices"
	"strings"
	"testing"

	"lvs"
)

func TestSettings(t *testing.T) {
	if !slices.IsSortedFunc(lvs.SettingNames, func(a, b lvs.SettingName) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("settings are not in order of their names")
	}
	for _, n := range lvs.SettingNames {
		s := lvs.DefaultSettings
		if err := n.Set(&s, "1"); err != nil || n.Of(s) != 1 {
			t.Errorf("%s=1: is %d, %v", n.Name, n.Of(s), err)
		}
		for _, bad := range []string{"", "-1", "4294967296", "on", "1.5", "0x1", " 1"} {
			before := s
			if err := n.Set(&s, bad); err == nil || s != before {
				t.Errorf("%s=%q is taken", n.Name, bad)
			}
		}
	}
	if _, err := lvs.Setting("conntrack_mode"); err == nil || !strings.Contains(err.Error(), "sloppy_tcp") {
		t.Errorf("an unknown setting: %v", err)
	}
}
