// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"lvs"
	"lvs/saved"
)

// appendJSON writes a connection as an object.
func appendJSON(b []byte, c *lvs.Conn) []byte {
	o := &saved.Object{Bytes: append(b, '{')}
	connFields(o, c)
	return append(o.Bytes, '}')
}

func connFields(o *saved.Object, c *lvs.Conn) {
	o.Text("protocol", strings.ToLower(c.Protocol.String()))
	o.Text("state", c.StateName())
	if c.Template {
		o.Name("template")
		o.Bytes = append(o.Bytes, "true"...)
	}
	o.Endpoint("client", c.Client)
	o.Endpoint("virtual", c.Virtual)
	o.Endpoint("server", c.Server)
	if c.Local.IsValid() {
		o.Endpoint("local", c.Local)
	}
	o.Text("forward", strings.ToLower(c.Forward.String()))
	o.Name("expires")
	o.Bytes = strconv.AppendFloat(o.Bytes, c.Expires.Seconds(), 'f', -1, 64)
}

// appendEntry writes an entry with all that is known of it.
func appendEntry(b []byte, e *lvs.Entry, next hop) []byte {
	o := &saved.Object{Bytes: append(b, '{')}
	connFields(o, &e.Conn)
	o.Text("service", name(e.Service))
	if e.Template {
		o.Number("conns", uint64(e.Conns))
	}
	if e.PEData != "" {
		o.Name("call")
		call, _ := json.Marshal(e.PEData)
		o.Bytes = append(o.Bytes, call...)
	}
	if e.Persistent.IsValid() {
		o.Text("persistent_client", e.Persistent.Addr().String())
	}
	if next.via != "" {
		o.Text("via", next.via)
	}
	if next.device != "" {
		o.Text("device", next.device)
	}
	if e.Accounted {
		o.Number("age", uint64(e.Age/time.Second))
		o.Number("in_packets", e.Stats.InPackets)
		o.Number("out_packets", e.Stats.OutPackets)
		o.Number("in_bytes", e.Stats.InBytes)
		o.Number("out_bytes", e.Stats.OutBytes)
	}
	return append(o.Bytes, '}')
}
