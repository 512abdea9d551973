package signal

import (
	"container/list"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
)

func newMember() *member { return &member{replies: map[uint64]*list.Element{}} }

// check checks that what the replies count is what the members have.
func (r *replies) check(t *testing.T, members ...*member) {
	t.Helper()
	n, bytes := 0, 0
	for _, m := range members {
		if len(m.order) != len(m.replies) || len(m.order) > maxReplies {
			t.Errorf("%d requests, %d in order", len(m.replies), len(m.order))
		}
		for _, e := range m.replies {
			if e != nil {
				n, bytes = n+1, bytes+len(e.Value.(reply).text)
			}
		}
	}
	if n != r.list.Len() || bytes != r.bytes || bytes > maxReplyBytes {
		t.Errorf("%d replies of %d bytes, counted are %d of %d", n, bytes, r.list.Len(), r.bytes)
	}
}

// TestReplyBytes: as many peers as there can be, with as many requests each as are kept and
// the longest replies, fill the room for replies and no more; the newest are kept.
func TestReplyBytes(t *testing.T) {
	var r replies
	var members []*member
	for range maxPeers {
		members = append(members, newMember())
	}
	text := make([]byte, MaxPayload)
	for id := range uint64(maxReplies) {
		for _, m := range members {
			if _, before := r.asked(m, id); before {
				t.Fatal("a new request came before")
			}
			r.keep(m, id, text)
		}
	}
	r.check(t, members...)
	if r.bytes != maxReplyBytes {
		t.Errorf("%d bytes, want %d", r.bytes, maxReplyBytes)
	}
	newest, oldest := members[len(members)-1], members[0]
	if got, before := r.asked(newest, maxReplies-1); !before || len(got) != len(text) {
		t.Errorf("the newest reply: %d bytes, came before: %v", len(got), before)
	}
	if _, before := r.asked(oldest, 0); before {
		t.Error("the oldest reply is kept")
	}
	for _, m := range members {
		r.forgetAll(m)
	}
	r.check(t, members...)
}

func TestReplies(t *testing.T) {
	var r replies
	a, b := newMember(), newMember()
	r.asked(a, 1)
	if got, before := r.asked(a, 1); got != nil || !before {
		t.Errorf("one that is worked on: %q, %v", got, before)
	}
	r.keep(a, 1, []byte("one"))
	r.keep(a, 1, []byte("twice"))
	r.keep(a, 2, []byte("not asked for"))
	r.keep(b, 1, []byte("neither"))
	if got, _ := r.asked(a, 1); string(got) != "one" {
		t.Errorf("the reply is %q", got)
	}
	r.check(t, a, b)
	for id := range uint64(maxReplies) {
		r.asked(a, 100+id)
		r.asked(b, 100+id)
		r.keep(b, 100+id, []byte("b"))
	}
	r.check(t, a, b)
	if _, before := r.asked(a, 1); before {
		t.Errorf("more than %d requests are remembered", maxReplies)
	}
	r.forgetAll(b)
	r.check(t, a, b)
}

// TestRepliesLeave: what a peer that left, or started again, was told is forgotten.
func TestRepliesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &net{}
		a, b := n.join(t, 1, nil), n.join(t, 2, nil)
		n.run(t)
		time.Sleep(time.Second)
		if _, _, err := b.Request(t.Context(), 1, slices.Repeat([]byte("x"), 100)); err != nil {
			t.Fatal(err)
		}
		a.mu.Lock()
		kept := a.replies.bytes
		a.mu.Unlock()
		a.Members(time.Now(), map[frame.PeerName]uint64{})
		a.mu.Lock()
		defer a.mu.Unlock()
		if kept != 104 || a.replies.bytes != 0 || a.replies.list.Len() != 0 {
			t.Errorf("%d bytes were kept, and %d are when the peer has left", kept, a.replies.bytes)
		}
	})
}
