// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"errors"
	"net/netip"
	"testing"
)

func TestParsePorts(t *testing.T) {
	for text, want := range map[string]Ports{
		"1024-32767": {1024, 32767}, "5000": {5000, 5000}, "1-65535": {1, 65535},
		"": {}, "0-5": {}, "9-8": {}, "1-65536": {}, "a-b": {}, "1-2-3": {}, "-5": {}, "5-": {},
	} {
		got, err := ParsePorts(text)
		if got != want || (err == nil) != (want != Ports{}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestLocalsOfServices(t *testing.T) {
	var table Table
	svc := ServiceID{Family: IPv4, Protocol: TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 80}
	one := LocalAddr{netip.MustParseAddr("10.0.0.5"), DefaultLocalPorts}
	six := LocalAddr{netip.MustParseAddr("fd00::5"), DefaultLocalPorts}
	for _, step := range []struct {
		what string
		do   func() error
		want error
	}{
		{"without the service", func() error { return table.AddLocal(&svc, one) }, ErrNotDefined},
		{"the service", func() error { return table.AddService(svc, ServiceConfig{Scheduler: "rr", Netmask: 1}) }, nil},
		{"one", func() error { return table.AddLocal(&svc, one) }, nil},
		{"one again", func() error { return table.AddLocal(&svc, one) }, ErrLocalExists},
		{"another family", func() error { return table.AddLocal(&svc, six) }, ErrLocalFamily},
		{"no host's", func() error { return table.AddLocal(nil, LocalAddr{netip.MustParseAddr("224.0.0.1"), one.Ports}) }, ErrInvalid},
		{"shared", func() error { return table.AddLocal(nil, six) }, nil},
		{"shared, too", func() error { return table.AddLocal(nil, one) }, nil},
		{"unknown", func() error { return table.DeleteLocal(&svc, six.Addr) }, ErrNoLocal},
		{"known", func() error { return table.DeleteLocal(&svc, one.Addr) }, nil},
	} {
		if err := step.do(); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.what, err, step.want)
		}
	}
	if len(table.Locals) != 2 || len(table.Service(svc).Locals) != 0 {
		t.Errorf("shared %v, the service's own %v", table.Locals, table.Service(svc).Locals)
	}
}

func TestAPoolHasAnEnd(t *testing.T) {
	var table Table
	for i := range LocalsPerPool + 1 {
		err := table.AddLocal(nil, LocalAddr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).Next(), DefaultLocalPorts})
		if full := i == LocalsPerPool; errors.Is(err, ErrLocals) != full || (err == nil) == full {
			t.Fatalf("address %d: %v", i+1, err)
		}
	}
}
