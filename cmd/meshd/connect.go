package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newConnectCmd(connect func() *client) *cobra.Command {
	replace := false
	cmd := &cobra.Command{
		Use:   "connect PEER...",
		Short: "Add peers to connect to",
		Long: `Add peers to the targets and connect to them at once. PEER is one of

  host[:port]         over TCP and QUIC, tried together; the port is TCP's
  quic://host[:port]  over QUIC only
  tcp://host[:port]   over TCP only

or the name or nickname of a peer that the mesh knows.

The targets are those of the running daemon; write them to "peers" in the
configuration file to keep them.`,
		Args:              atLeast(1),
		ValidArgsFunction: completePeers(connect),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := connect()
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			targets, err := connectTargets(s, args)
			if err != nil {
				return err
			}
			if err := c.connect(cmd.Context(), targets, replace); err != nil {
				return err
			}
			verb := "added to"
			if replace {
				verb = "now are all of"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s the targets\n", strings.Join(targets, ", "), verb)
			return err
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "drop all other targets")
	return cmd
}

// completePeers offers the names and nicknames of other peers to the shell.
func completePeers(connect func() *client) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, err := connect().status(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, p := range s.Peers {
			if p.Name != s.Name {
				out = append(out, p.NickName+"\t"+p.Name, p.Name+"\t"+p.NickName)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
