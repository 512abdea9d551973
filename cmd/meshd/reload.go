package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newReloadCmd(connect func() *client) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration again",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := connect().reload(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case len(a.Applied)+len(a.NeedRestart) == 0:
				fmt.Fprintln(out, "nothing has changed")
			case len(a.Applied) > 0:
				fmt.Fprintln(out, "applied:", strings.Join(a.Applied, ", "))
			}
			if len(a.NeedRestart) > 0 {
				fmt.Fprintln(out, "changed, but takes effect after a restart:", strings.Join(a.NeedRestart, ", "))
			}
			return nil
		},
	}
}
