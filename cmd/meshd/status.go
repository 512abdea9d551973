package main

import (
	"io"

	"github.com/spf13/cobra"
)

// view is one way to look at a Status: what --json and what a terminal shows.
type view struct {
	pick func(*Status) (*Status, error) // nil: all of it
	json func(*Status) any
	text func(io.Writer, *Status) error
}

func newStatusCmd(connect func() *client) *cobra.Command {
	cmd := viewCmd(connect, "status", "Show the mesh, what is wrong first", view{
		json: func(s *Status) any { return s },
		text: printStatus,
	})
	cmd.AddCommand(
		viewCmd(connect, "connections", "Connections, and attempts to make some", view{
			json: func(s *Status) any { return connectionList(s) },
			text: printConnections,
		}),
		viewCmd(connect, "peers", "All peers and their connections", view{
			json: func(s *Status) any { return s.Peers },
			text: printPeers,
		}),
		viewCmd(connect, "targets", "Configured peer addresses", view{
			json: func(s *Status) any { return s.Targets },
			text: printTargets,
		}),
		viewCmd(connect, "macs", "Which peer each MAC address is behind", view{
			json: func(s *Status) any { return s.MACs },
			text: printMACs,
		}),
		viewCmd(connect, "routes", "Over which neighbours frames go", view{
			json: func(s *Status) any { return s.Routes },
			text: printRoutes,
		}),
	)
	return cmd
}

// ConnectionAndWay is one entry of `status connections --json`.
type ConnectionAndWay struct {
	Connection
	Way *Way `json:"way,omitempty"`
}

// connectionList lists connections with the way to each neighbour.
func connectionList(s *Status) []ConnectionAndWay {
	return each(s.Connections, func(c Connection) ConnectionAndWay { return ConnectionAndWay{c, s.wayOf(c.Name)} })
}

// viewCmd makes a command that shows one view of the daemon's status.
func viewCmd(connect func() *client, use, short string, v view) *cobra.Command {
	var asJSON, again bool
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, connect(), v, asJSON, again)
		},
	}
	jsonFlag(cmd, &asJSON)
	watchFlag(cmd, &again)
	return cmd
}

// show prints a view once, or again and again.
func show(cmd *cobra.Command, c *client, v view, asJSON, again bool) error {
	out := cmd.OutOrStdout()
	print := func(w io.Writer) error {
		s, err := c.status(cmd.Context())
		if err != nil {
			return err
		}
		if v.pick != nil {
			if s, err = v.pick(s); err != nil {
				return err
			}
		}
		if asJSON {
			return printJSON(w, v.json(s), !again)
		}
		return v.text(w, s)
	}
	if !again {
		return print(out)
	}
	return watch(cmd.Context(), out, cmd.ErrOrStderr(), !asJSON, print)
}
