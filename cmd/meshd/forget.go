package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newForgetCmd(connect func() *client) *cobra.Command {
	return &cobra.Command{
		Use:   "forget PEER...",
		Short: "Remove peers from the targets",
		Long: `Remove peers from the targets. PEER is a target as "meshd status targets" prints
it, an address, or the name or nickname of the peer there. Connections that exist
stay, and discovery may find the peer again.`,
		Args:              atLeast(1),
		ValidArgsFunction: completeTargets(connect),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := connect()
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			targets, err := forgetTargets(s, args)
			if err != nil {
				return err
			}
			if err := c.forget(cmd.Context(), targets); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s removed from the targets\n", strings.Join(targets, ", "))
			return err
		},
	}
}

func completeTargets(connect func() *client) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		s, err := connect().status(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return each(s.Targets, func(t Target) string { return t.Target }), cobra.ShellCompDirectiveNoFileComp
	}
}
