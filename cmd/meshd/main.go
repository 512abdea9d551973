package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // it did not work
	exitUsage   = 2 // the command line makes no sense
)

func main() {
	spareProcessors()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// The first signal asks, a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	started := false
	root := newRootCmd(func() { started = true })
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	_, usage := errors.AsType[usageError](err)
	code := exitFailure
	if e, ok := errors.AsType[exitError](err); ok {
		code = e.code
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return code
	case usage || !started:
		fmt.Fprintf(stderr, "meshd: %v\nSee `%s --help`.\n", err, cmd.CommandPath())
		return exitUsage
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(stderr, "meshd: interrupted")
		return exitFailure
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(stderr, "meshd: %s\n", line)
	}
	return code
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// errSilent is what the errors are that a command has said all about.
var errSilent = errors.New("it did not work")

// usageError is a fault of the command line that a command itself has found.
type usageError struct{ error }

// newRootCmd makes all commands; started is called once a command line has been
// understood.
func newRootCmd(started func()) *cobra.Command {
	socket := ""
	root := &cobra.Command{
		Use:               "meshd",
		Short:             "Join hosts into one Ethernet",
		Long:              "meshd joins hosts, and Weave Net routers, into one Ethernet.",
		SilenceUsage:      true,
		SilenceErrors:     true,
		Version:           buildVersion().Version,
		PersistentPreRun:  func(*cobra.Command, []string) { started() },
		DisableAutoGenTag: true,
	}
	root.PersistentFlags().StringVar(&socket, "socket", "",
		fmt.Sprintf("the daemon's socket (default $%s, else %s)", socketEnv, defaultSocket))
	connect := func() *client { return newClient(socketPath(socket)) }
	root.AddCommand(
		newUpCmd(),
		newDownCmd(connect),
		newReloadCmd(connect),
		newStatusCmd(connect),
		newReportCmd(connect),
		newConnectCmd(connect),
		newForgetCmd(connect),
		newTransportCmd(connect),
		newIdentityCmd(connect),
		newTrustCmd(connect),
		newPingCmd(connect),
		newBenchCmd(connect),
		newWhyCmd(connect),
		newNATCmd(connect),
		newAttachCmd(connect),
		newDetachCmd(connect),
		newExposeCmd(connect),
		newHideCmd(connect),
		newPublishCmd(connect),
		newUnpublishCmd(connect),
		newPsCmd(connect),
		newConfigCmd(),
		newDocsCmd(),
		newVersionCmd(),
		newDemoCmd(),
	)
	return root
}

// socketPath is the daemon's socket: as named by the flag, else by the
// environment, else the default.
func socketPath(flag string) string {
	switch {
	case flag != "":
		return flag
	case os.Getenv(socketEnv) != "":
		return os.Getenv(socketEnv)
	}
	return defaultSocket
}

// group makes a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	var names []string
	for _, c := range children {
		names = append(names, c.Name())
	}
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for %q; there are: %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))}
			}
			return usageError{fmt.Errorf("%q needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))}
		},
	}
	cmd.AddCommand(children...)
	return cmd
}

func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON")
}

func watchFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVarP(to, "watch", "w", false, "print again every second")
}
