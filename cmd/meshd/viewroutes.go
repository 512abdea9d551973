package main

import (
	"time"

	"meshd/internal/frame"
	"meshd/routing/control"
)

// Routes is what the forwarder goes by.
type Routes struct {
	Unicast   []UnicastRoute   `json:"unicast"`
	Broadcast []BroadcastRoute `json:"broadcast"`
}

// UnicastRoute says over which neighbour frames to Dest leave; Via is empty for
// ourselves.
type UnicastRoute struct {
	Dest string `json:"dest"`
	Via  string `json:"via"`
}

// BroadcastRoute says to whom a frame flooded by Source is passed on.
type BroadcastRoute struct {
	Source string   `json:"source"`
	Via    []string `json:"via"`
}

// MAC is an entry of the MAC table.
type MAC struct {
	MAC      string    `json:"mac"`
	Name     string    `json:"name"`
	NickName string    `json:"nickname"`
	LastSeen time.Time `json:"last_seen"`
	Flapping bool      `json:"flapping,omitempty"` // moves between peers again and again
}

// MACTable counts what happened to the MAC table since the start.
type MACTable struct {
	Entries   int    `json:"entries"`
	Moves     uint64 `json:"moves"`     // addresses that moved to another peer
	Conflicts uint64 `json:"conflicts"` // frames dropped because their address is held elsewhere
	Unlearned uint64 `json:"unlearned"` // frames whose address was not learned
	Flapping  uint64 `json:"flapping"`  // addresses that began to flap
}

func newUnicastRoute(r control.UnicastRoute) UnicastRoute {
	v := UnicastRoute{Dest: r.Dest.String()}
	if r.Via.Valid() {
		v.Via = r.Via.String()
	}
	return v
}

func newBroadcastRoute(r control.BroadcastRoute) BroadcastRoute {
	return BroadcastRoute{Source: r.Source.String(), Via: each(r.Via, frame.PeerName.String)}
}

func newMACs(r Report, peers []Peer) []MAC {
	nick := make(map[string]string, len(peers))
	for _, p := range peers {
		nick[p.Name] = p.NickName
	}
	out := make([]MAC, 0, len(r.MACs))
	for _, e := range r.MACs {
		name := e.Peer.String()
		out = append(out, MAC{MAC: e.MAC.String(), Name: name, NickName: nick[name], LastSeen: e.LastSeen, Flapping: e.Flapping})
	}
	return out
}
