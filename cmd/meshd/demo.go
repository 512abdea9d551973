package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"meshd/internal/demo"
)

// newDemoCmd makes `meshd demo`.
func newDemoCmd() *cobra.Command {
	var keep, remove, natted bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a mesh of three hosts on this machine, in network namespaces",
		Long: `Show a mesh of three hosts on this machine, in network namespaces.

Two hosts are on one VLAN, the third is behind a router; each has a container.
The demo starts three real daemons, shows the mesh forming, pings and fetches
between all containers, kills a host and brings it back. With --nat two hosts are
behind NATs of their own: they are relayed by the third, find the direct way, and
find it again after the NATs reboot.

It needs root and removes everything it made, also on Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remove {
				return demo.Remove(cmd.OutOrStdout())
			}
			return runDemo(cmd, keep, natted)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the hosts up at the end")
	cmd.Flags().BoolVar(&natted, "nat", false, "the story of two hosts behind NATs")
	cmd.Flags().BoolVar(&remove, "remove", false, "remove what --keep left up")
	cmd.MarkFlagsMutuallyExclusive("keep", "remove")
	cmd.AddCommand(newDemoServeCmd())
	return cmd
}

func runDemo(cmd *cobra.Command, keep, natted bool) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program itself: %w", err)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err = demo.Run(ctx, demo.Options{
		Binary: exe, Keep: keep, NAT: natted, Out: cmd.OutOrStdout(),
		Color: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "",
	})
	if ctx.Err() != nil {
		return errors.Join(errors.New("the demo was interrupted"), err)
	}
	return err
}

// newDemoServeCmd makes the web server that runs in the demo's containers.
func newDemoServeCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "serve ADDRESS TEXT",
		Short:  "Answer HTTP on an address with a text",
		Args:   exactly(2),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return demo.Serve(cmd.Context(), args[0], args[1])
		},
	}
}
