package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meshd/tap/containers"
)

// attachRequest is the body of /v1/attach and /v1/detach.
type attachRequest struct {
	Container        string         `json:"container"`
	Addresses        []netip.Prefix `json:"addresses"`
	NoMulticastRoute bool           `json:"no_multicast_route,omitempty"`
}

// detachAnswer is the answer to /v1/detach.
type detachAnswer struct {
	Left []netip.Prefix `json:"left"` // addresses that the container still has
}

func (a *api) attach(ctx context.Context, req attachRequest) (containers.ContainerView, error) {
	return a.daemon.Containers().Attach(ctx, req.Container, req.Addresses, containers.AttachOptions{NoMulticastRoute: req.NoMulticastRoute})
}

func (a *api) detach(ctx context.Context, req attachRequest) (detachAnswer, error) {
	left, err := a.daemon.Containers().Detach(ctx, req.Container, req.Addresses)
	return detachAnswer{Left: left}, err
}

const containerWords = `CONTAINER is a name or id of Docker, podman or containerd ("docker:NAME" where more
than one engine has it), "pid:PID", or a network namespace: "netns:NAME" or a path.`

func newAttachCmd(connect func() *client) *cobra.Command {
	noRoute := false
	cmd := &cobra.Command{
		Use:   "attach CIDR... CONTAINER",
		Short: "Put a running container on the overlay",
		Long: `Give a running container the interface ethwe on the overlay, with these addresses, and
print them. Each address is first looked for on the overlay: one that somebody has is
refused. The container gets the interface back whenever it, its engine or this host
was restarted, until it is detached or removed. An interface that Weave Net has given
it on the same bridge is taken over with what it has; of its addresses those that are
named here come back after a restart.

` + containerWords,
		Example: "  meshd attach 192.168.99.10/24 httpd\n  meshd attach 10.32.1.5/16 fd00:32::5/64 netns:lab",
		Args:    atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := attachRequest{Container: args[len(args)-1], NoMulticastRoute: noRoute}
			var err error
			if req.Addresses, err = parseAddresses(args[:len(args)-1]); err != nil {
				return usageError{err}
			}
			if _, err := connect().call(cmd.Context(), http.MethodPost, "/v1/attach", req); err != nil {
				return err
			}
			return printAddresses(cmd, req.Addresses)
		},
	}
	cmd.Flags().BoolVar(&noRoute, "no-multicast-route", false, "no route for 224.0.0.0/4 in the container")
	return cmd
}

func newDetachCmd(connect func() *client) *cobra.Command {
	return &cobra.Command{
		Use:   "detach [CIDR...] CONTAINER",
		Short: "Take a container off the overlay",
		Long: `Take these addresses, or all, from a container, and its interface with the last one.

` + containerWords,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := attachRequest{Container: args[len(args)-1]}
			var err error
			if req.Addresses, err = parseAddresses(args[:len(args)-1]); err != nil {
				return usageError{err}
			}
			_, err = connect().call(cmd.Context(), http.MethodPost, "/v1/detach", req)
			return err
		},
	}
}

// parseAddresses reads addresses from the command line and names all that are none.
func parseAddresses(args []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var faults []string
	for _, arg := range args {
		p, err := containers.ParsePrefix(arg)
		if err != nil {
			faults = append(faults, err.Error())
		}
		out = append(out, p)
	}
	if faults != nil {
		return nil, fmt.Errorf("%s", strings.Join(faults, "\n"))
	}
	return out, nil
}

// printAddresses prints addresses as weave does: in one line, without lengths.
func printAddresses(cmd *cobra.Command, addresses []netip.Prefix) error {
	words := each(slices.Clone(addresses), func(p netip.Prefix) string { return p.Addr().String() })
	_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(words, " "))
	return err
}
