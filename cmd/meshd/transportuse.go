package main

import (
	"context"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"meshd/config"
	"meshd/internal/frame"
	"meshd/transport"
)

// autoTransport is the word that takes a choice by hand back.
const autoTransport = "auto"

// preferences are the parts of the configuration that choosing goes by.
func preferences(cfg config.Config) transport.Preferences {
	return transport.Preferences{
		Default: cfg.Transports,
		Overrides: each(cfg.Overrides, func(o config.Override) transport.Override {
			return transport.Override{Peer: o.Name, Net: o.Net, Transports: o.Transports}
		}),
	}
}

// useRequest is the body of /v1/transport/use.
type useRequest struct {
	Peer      frame.PeerName `json:"peer"`
	Transport string         `json:"transport"` // empty: no choice any more
}

func (a *api) useTransport(_ context.Context, req useRequest) error {
	return a.daemon.UseTransport(req.Peer, req.Transport)
}

// UseTransport chooses a transport for a neighbour by hand; empty: takes it back.
func (d *daemon) UseTransport(peer frame.PeerName, name string) error {
	err := d.set.Use(peer, name)
	if err == nil {
		d.opt.log.Info("transport chosen by hand", "peer", peer, "transport", name)
	}
	return err
}

func newUseCmd(connect func() *client) *cobra.Command {
	return &cobra.Command{
		Use:   "use PEER NAME|auto",
		Short: "Choose the transport to a neighbour by hand",
		Long: `Choose the transport that carries frames to a neighbour, whatever the order of
preference. While it does not work the best of the others carries them, and
"meshd status" says so; 10 s after it works again it is taken back. "auto" returns
to the order of preference.

The choice holds for this end, until it is changed or this daemon ends; write
"overrides" in the configuration file to keep it. PEER is a name, nickname or
address.`,
		Args: exactly(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return completePeers(connect)(cmd, args, word)
			case 1:
				return append(transportNames(), autoTransport), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c := connect()
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			peer, err := neighbourNamed(s, args[0])
			if err != nil {
				return err
			}
			name := args[1]
			req := useRequest{Peer: peer, Transport: name}
			if name == autoTransport {
				req.Transport = ""
			}
			if _, err := c.call(cmd.Context(), http.MethodPost, "/v1/transport/use", req); err != nil {
				return err
			}
			if name == autoTransport {
				name = "the most preferred transport that works"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "frames to %s use %s\n", args[0], name)
			return err
		},
	}
}

// neighbourNamed finds the peer that a user named. A peer that is away is named in
// full: its choice may be taken back.
func neighbourNamed(s *Status, arg string) (frame.PeerName, error) {
	p, err := findPeer(s, arg)
	if err != nil {
		return 0, err
	}
	name, isName := asName(arg)
	switch {
	case p != nil:
		name = p.Name
	case !isName:
		return 0, fmt.Errorf("no peer has the name, nickname or address %s", arg)
	}
	if name == s.Name {
		return 0, fmt.Errorf("%s is this peer itself", arg)
	}
	return frame.ParsePeerName(name)
}
