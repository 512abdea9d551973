package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newDocsCmd makes what packages ship beside the binary. It is for those who make
// packages, and hidden from all others.
func newDocsCmd() *cobra.Command {
	man := &cobra.Command{
		Use:   "man DIR",
		Short: "Write a man page for each command into DIR",
		Long: `Write a man page for each command into DIR, which is made if it is missing. The date
on them is SOURCE_DATE_EPOCH, else today.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			hideHost(cmd.Root())
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Section: "8", Source: "meshd", Manual: "meshd"}, args[0])
		},
	}
	cmd := group("docs", "Write documentation for packages", man)
	cmd.Hidden = true
	return cmd
}

// hideHost takes the name of the machine that this runs on out of what is written.
func hideHost(cmd *cobra.Command) {
	if f := cmd.Flags().Lookup("nickname"); f != nil {
		f.DefValue = "host name"
	}
	for _, child := range cmd.Commands() {
		hideHost(child)
	}
}
