package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

func newTransportCmd(connect func() *client) *cobra.Command {
	list := viewCmd(connect, "list", "Transports in order of preference", view{
		json: func(s *Status) any { return s.Transports },
		text: printTransports,
	})
	return group("transport", "Show and choose transports and the paths over them", list, newStatsCmd(connect), newUseCmd(connect))
}

func newStatsCmd(connect func() *client) *cobra.Command {
	var asJSON, again bool
	cmd := &cobra.Command{
		Use:   "stats [PEER...]",
		Short: "Show each path to each neighbour",
		Long: `Show each path to each neighbour: state, address, encryption, MTU, round-trip
time (smoothed, and the smallest of the last 5 minutes), loss, and keys as 1+31: one
handshake and 31 changes of keys since. Then, for each direction, frames and bits per
second over the last one to two seconds, frames, bytes of frames, datagrams, and
drops by reason.

Then, for each peer, how frames go to it: direct, or relayed via a neighbour; the
address chosen by the search for a direct way, or in use where none was needed; and the
candidates of both ends that its last round tried.

A figure that is not known is "-". A round-trip time with "~" is the kernel's for
the control connection, since stock Weave routers answer no probes. PEER, a name,
nickname or address, limits the output to those neighbours.`,
		ValidArgsFunction: completePeers(connect),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(cmd, connect(), view{
				pick: func(s *Status) (*Status, error) { return onlyPeers(s, args) },
				json: func(s *Status) any { return pathList(s) },
				text: printStats,
			}, asJSON, again)
		},
	}
	jsonFlag(cmd, &asJSON)
	watchFlag(cmd, &again)
	return cmd
}

// NeighbourPath is one line of `transport stats --json`.
type NeighbourPath struct {
	Name     string `json:"name"`
	NickName string `json:"nickname"`
	Kind     string `json:"kind"`
	Path
	Way *Way `json:"way,omitempty"`
}

// pathList lists the paths to all neighbours.
func pathList(s *Status) []NeighbourPath {
	out := []NeighbourPath{}
	for _, c := range s.Connections {
		for _, p := range c.Paths {
			out = append(out, NeighbourPath{Name: c.Name, NickName: c.NickName, Kind: c.Kind, Path: p, Way: s.wayOf(c.Name)})
		}
	}
	return out
}

// onlyPeers keeps the connections to the peers that a user named.
func onlyPeers(s *Status, args []string) (*Status, error) {
	if len(args) == 0 {
		return s, nil
	}
	var names []string
	for _, arg := range args {
		p, err := findPeer(s, arg)
		if err != nil {
			return nil, err
		}
		if p == nil {
			return nil, fmt.Errorf("no peer has the name, nickname or address %s", arg)
		}
		names = append(names, p.Name)
	}
	picked := *s
	picked.Connections = slices.DeleteFunc(slices.Clone(s.Connections), func(c Connection) bool {
		return !slices.Contains(names, c.Name)
	})
	picked.Ways = slices.DeleteFunc(slices.Clone(s.Ways), func(w Way) bool { return !slices.Contains(names, w.Name) })
	return &picked, nil
}
