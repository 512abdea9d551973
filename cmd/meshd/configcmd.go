package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"meshd/config"
)

func newConfigCmd() *cobra.Command {
	return group("config", "Check or show settings", newConfigCheckCmd(), newConfigShowCmd())
}

func newConfigCheckCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Say all that is wrong with a configuration file",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0], nil, transportNames()...)
			for _, w := range cfg.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", args[0])
			return err
		},
	}
}

func newConfigShowCmd() *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the settings that `meshd up` would use, and where each comes from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loader(file, cmd.Flags())()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(cfg.Marshal())
			return err
		},
	}
	configFlags(cmd, &file)
	return cmd
}
