package signal

import "container/list"

// Bounds of the replies that are kept for when their requests come again.
const (
	maxReplies    = 16      // of one peer
	maxReplyBytes = 4 << 20 // of all peers together
)

// replies are those to the requests of all peers, oldest first.
type replies struct {
	list  list.List // of reply
	bytes int
}

// reply is one that was sent.
type reply struct {
	to   *member
	id   uint64
	text []byte
}

// asked reports whether a request of a member's came before, and how it was answered; nil:
// it is being worked on. Of one that is new it is noted that it came.
func (r *replies) asked(m *member, id uint64) (text []byte, before bool) {
	if e, before := m.replies[id]; before {
		if e != nil {
			text = e.Value.(reply).text
		}
		return text, true
	}
	if len(m.order) >= maxReplies {
		r.forget(m, m.order[0])
	}
	m.replies[id], m.order = nil, append(m.order, id)
	return nil, false
}

// keep keeps the reply to a request that came, as long as there is room. A request whose
// reply had to make room is answered anew when it comes again.
func (r *replies) keep(m *member, id uint64, text []byte) {
	if e, came := m.replies[id]; !came || e != nil || len(text) > MaxPayload {
		return
	}
	m.replies[id] = r.list.PushBack(reply{m, id, text})
	for r.bytes += len(text); r.bytes > maxReplyBytes; {
		oldest := r.list.Front().Value.(reply)
		r.forget(oldest.to, oldest.id)
	}
}

// forget forgets one request of a member's.
func (r *replies) forget(m *member, id uint64) {
	r.drop(m.replies[id])
	delete(m.replies, id)
	for i, o := range m.order {
		if o == id {
			m.order = append(m.order[:i], m.order[i+1:]...)
			return
		}
	}
}

// forgetAll forgets all requests of a member's.
func (r *replies) forgetAll(m *member) {
	for _, e := range m.replies {
		r.drop(e)
	}
	clear(m.replies)
	m.order = nil
}

func (r *replies) drop(e *list.Element) {
	if e != nil {
		r.bytes -= len(r.list.Remove(e).(reply).text)
	}
}
