// SPDX-License-Identifier: Apache-2.0

package simulate

// endings is a heap of connections, the one that ends first at the top. (container/heap would allocate for each.)
type endings []ending

func (h *endings) push(e ending) {
	*h = append(*h, e)
	all := *h
	i := len(all) - 1
	for i > 0 {
		up := (i - 1) / 2
		if all[up].at <= e.at {
			break
		}
		all[i] = all[up]
		i = up
	}
	all[i] = e
}

func (h *endings) pop() ending {
	all := *h
	first, last := all[0], all[len(all)-1]
	all = all[:len(all)-1]
	*h = all
	i := 0
	for {
		down := 2*i + 1
		if down >= len(all) {
			break
		}
		if right := down + 1; right < len(all) && all[right].at < all[down].at {
			down = right
		}
		if last.at <= all[down].at {
			break
		}
		all[i] = all[down]
		i = down
	}
	if len(all) > 0 {
		all[i] = last
	}
	return first
}

// queue is a row of connections, in the order in which they end.
type queue struct {
	ring  []ending // its length is a power of two
	head  int
	count int
}

func (q *queue) len() int { return q.count }

func (q *queue) first() ending { return q.ring[q.head] }

func (q *queue) push(e ending) {
	if q.count == len(q.ring) {
		larger := make([]ending, max(2*q.count, 64))
		for i := range q.count {
			larger[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
		}
		q.ring, q.head = larger, 0
	}
	q.ring[(q.head+q.count)&(len(q.ring)-1)] = e
	q.count++
}

func (q *queue) pop() ending {
	e := q.ring[q.head]
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.count--
	return e
}
