package lvs

import "iter"

// Director is a table that is in force: the kernel's half of a director, or something that stands in for it.
type Director interface {
	// Update hands the table as it is to change, and commits what change made of it: all at once, or nothing if
	// change or the commit answers an error. Updates happen one after the other, whoever makes them.
	Update(change func(*Table) error) error
	// Table reads the table as it is, with loads, counters and rates.
	Table() (*Table, error)
	// Conns reads the connection table, in no particular order.
	Conns() iter.Seq2[Conn, error]
	// Size is how many connections the table has room for.
	Size() int
}
