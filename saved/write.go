// SPDX-License-Identifier: Apache-2.0

package saved

import (
	"bufio"
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"lvs"
)

// Writer writes a file. Errors of the writing wait until the end.
type Writer struct {
	Counts
	out       *bufio.Writer
	line      []byte
	templates []uint32 // their numbers
}

// NewWriter begins a file with settings and rules.
func NewWriter(out io.Writer, settings lvs.Settings, rules []string) *Writer {
	w := &Writer{out: bufio.NewWriterSize(out, 1<<16)}
	w.marshal(map[string]any{"director": Format, "version": Version})
	changed := map[string]string{}
	for _, n := range lvs.SettingNames {
		if n.Of(settings) != n.Of(lvs.DefaultSettings) {
			changed[n.Name] = n.Text(settings)
		}
	}
	w.marshal(map[string]any{"settings": changed})
	for _, r := range rules {
		w.marshal(map[string]any{"rule": r})
	}
	return w
}

func (w *Writer) marshal(v any) {
	j := json.NewEncoder(w.out)
	j.SetEscapeHTML(false)
	j.Encode(v)
}

// Counters writes what a service, or a server, has counted. It comes before entries.
func (w *Writer) Counters(c Counters) {
	to := counted{Service: string(appendService(nil, c.Service)), Conns: c.Stats.Conns, counts: countsOf(c.Stats)}
	if c.Server != nil {
		server := netip.AddrPortFrom(c.Server.Addr, c.Server.Port)
		to.Server = &server
	}
	w.marshal(map[string]any{"counted": to})
}

// Entry writes an entry. Templates come before connections, in the order of their numbers.
func (w *Writer) Entry(e *lvs.Entry) {
	l := &Object{Bytes: append(w.line[:0], `{"conn":{`...)}
	if e.Template {
		l.Bytes = append(w.line[:0], `{"template":{`...)
	}
	l.Name("service")
	l.Bytes = append(appendService(append(l.Bytes, '"'), e.Service), '"')
	l.Endpoint("server", netip.AddrPortFrom(e.ServerID.Addr, e.ServerID.Port))
	l.Text("protocol", protocolName(e.Protocol))
	l.Endpoint("virtual", e.Virtual)
	l.Name("expires")
	l.Bytes = strconv.AppendFloat(l.Bytes, float64(max(e.Expires.Milliseconds(), 1))/1000, 'f', -1, 64)
	if e.Accounted {
		l.Number("age", uint64(e.Age/time.Second))
	}
	if e.Template {
		w.template(l, e)
	} else {
		w.conn(l, e)
	}
	w.line = append(l.Bytes, "}}\n"...)
	w.out.Write(w.line)
}

func (w *Writer) template(l *Object, e *lvs.Entry) {
	w.Templates++
	w.templates = append(w.templates, e.Number)
	l.Number("number", uint64(e.Number))
	l.Name("client")
	l.Bytes = append(e.Client.Addr().AppendTo(append(l.Bytes, '"')), '"')
	l.Number("timeout", uint64(e.Timeout))
	l.Number("conns", uint64(e.Conns))
	if e.State == lvs.TemplateAssured {
		l.Name("assured")
		l.Bytes = append(l.Bytes, "true"...)
	}
	if e.PEData != "" {
		var call []rune
		for i := range len(e.PEData) {
			call = append(call, rune(e.PEData[i]))
		}
		quoted, _ := json.Marshal(string(call))
		l.Name("call")
		l.Bytes = append(l.Bytes, quoted...)
	}
}

func (w *Writer) conn(l *Object, e *lvs.Entry) {
	w.Conns++
	l.Endpoint("client", e.Client)
	l.Text("forward", strings.ToLower(e.Forward.String()))
	l.Text("state", e.StateName())
	if e.Local.IsValid() {
		l.Endpoint("local", e.Local)
	}
	if e.Controller != lvs.NoTemplate {
		if _, there := slices.BinarySearch(w.templates, e.Controller); there { // else it has ended, or nobody finds it
			l.Number("template", uint64(e.Controller))
		}
	}
	if s := e.Stats; e.Accounted && s != (lvs.Stats{}) {
		l.Name("counts")
		l.Bytes = append(l.Bytes, '{')
		l.Number("in_packets", s.InPackets)
		l.Number("out_packets", s.OutPackets)
		l.Number("in_bytes", s.InBytes)
		l.Number("out_bytes", s.OutBytes)
		l.Bytes = append(l.Bytes, '}')
	}
	if e.Flags == 0 {
		return
	}
	l.Name("flags")
	before := byte('[')
	for _, f := range flags {
		if e.Flags&f.flag != 0 {
			l.Bytes = append(append(append(l.Bytes, before, '"'), f.name...), '"')
			before = ','
		}
	}
	l.Bytes = append(l.Bytes, ']')
}

// Close ends the file.
func (w *Writer) Close() error {
	w.marshal(map[string]any{"end": w.Counts})
	return w.out.Flush()
}
