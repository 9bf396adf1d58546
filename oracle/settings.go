// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	"lvs"
)

// Settings gives the settings.
func (d *Director) Settings() (lvs.Settings, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settings, nil
}

// Set changes settings, all at once.
func (d *Director) Set(change func(*lvs.Settings) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.settings
	if err := change(&s); err != nil {
		return err
	}
	d.settings = s
	return nil
}

// replaced says whether the packet begins a new connection in place of one that is all but over.
func (d *Director) replaced(c *conn, p *packet) bool {
	mode := d.settings.ConnReuseMode
	if !p.opens || mode == 0 || c.template != nil {
		return false
	}
	if c.protocol == lvs.SCTP {
		return c.state == lvs.SCTPClosed
	}
	return c.state == lvs.TCPTimeWait || c.state == lvs.TCPClose ||
		mode&2 != 0 && c.state == lvs.TCPFinWait && c.noOutput()
}

// deserted says whether a connection ends because its server is gone, or of weight 0 when the client begins anew.
func (d *Director) deserted(c *conn, p *packet) bool {
	if d.settings.ExpireNodestConn == 0 {
		return false
	}
	return c.server.service == nil || c.server.config.Weight == 0 && p.opens
}

// endDeserted ends the connections and templates of servers that are removed, if that is what the settings ask for.
func (d *Director) endDeserted() {
	if d.settings.ExpireNodestConn == 0 {
		return
	}
	for _, c := range d.conns {
		if c.server.service == nil {
			d.remove(c)
		}
	}
	d.templates = slices.DeleteFunc(d.templates, func(t *template) bool {
		deserted := t.server.service == nil
		if deserted {
			t.end()
		}
		return deserted
	})
}
