// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lvs"
)

// object is a JSON object, written by hand, because there may be millions.
type object struct{ b []byte }

func (o *object) name(key string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), key...), '"', ':')
}

func (o *object) text(key, value string) {
	o.name(key)
	o.b = append(append(append(o.b, '"'), value...), '"')
}

func (o *object) number(key string, n uint64) {
	o.name(key)
	o.b = strconv.AppendUint(o.b, n, 10)
}

func (o *object) endpoint(key string, value netip.AddrPort) {
	o.name(key)
	o.b = append(value.AppendTo(append(o.b, '"')), '"')
}

// appendJSON writes a connection as an object.
func appendJSON(b []byte, c *lvs.Conn) []byte {
	o := &object{append(b, '{')}
	o.conn(c)
	return append(o.b, '}')
}

func (o *object) conn(c *lvs.Conn) {
	o.text("protocol", strings.ToLower(c.Protocol.String()))
	o.text("state", c.StateName())
	if c.Template {
		o.name("template")
		o.b = append(o.b, "true"...)
	}
	o.endpoint("client", c.Client)
	o.endpoint("virtual", c.Virtual)
	o.endpoint("server", c.Server)
	if c.Local.IsValid() {
		o.endpoint("local", c.Local)
	}
	o.text("forward", strings.ToLower(c.Forward.String()))
	o.name("expires")
	o.b = strconv.AppendFloat(o.b, c.Expires.Seconds(), 'f', -1, 64)
}

// appendEntry writes an entry with all that is known of it.
func appendEntry(b []byte, e *lvs.Entry, next hop) []byte {
	o := &object{append(b, '{')}
	o.conn(&e.Conn)
	o.text("service", name(e.Service))
	if e.Template {
		o.number("conns", uint64(e.Conns))
	}
	if e.PEData != "" {
		o.name("call")
		call, _ := json.Marshal(e.PEData)
		o.b = append(o.b, call...)
	}
	if e.Persistent.IsValid() {
		o.text("persistent_client", e.Persistent.Addr().String())
	}
	if next.via != "" {
		o.text("via", next.via)
	}
	if next.device != "" {
		o.text("device", next.device)
	}
	if e.Accounted {
		o.number("age", uint64(e.Age/time.Second))
		o.number("in_packets", e.Stats.InPackets)
		o.number("out_packets", e.Stats.OutPackets)
		o.number("in_bytes", e.Stats.InBytes)
		o.number("out_bytes", e.Stats.OutBytes)
	}
	return append(o.b, '}')
}
