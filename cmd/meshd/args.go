package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// atLeast is for a command that takes n words or more.
func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return argsError("too few words", cmd)
		}
		return nil
	}
}

// exactly is for a command that takes n words.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return argsError("too many words", cmd)
		}
		return atLeast(n)(cmd, args)
	}
}

// argsError shows how the command is written.
func argsError(fault string, cmd *cobra.Command) error {
	return fmt.Errorf("%s: write `%s`", fault, strings.TrimSuffix(cmd.UseLine(), " [flags]"))
}
