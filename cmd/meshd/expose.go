package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
)

// exposeRequest is the body of /v1/expose and /v1/hide.
type exposeRequest struct {
	Addresses  []netip.Prefix `json:"addresses"`
	Subnets    []netip.Prefix `json:"subnets,omitempty"` // a free address of each
	Masquerade bool           `json:"masquerade,omitempty"`
}

// exposeAnswer is the answer to both.
type exposeAnswer struct {
	Addresses []netip.Prefix `json:"addresses"`
}

func (a *api) expose(ctx context.Context, req exposeRequest) (exposeAnswer, error) {
	addresses, err := a.daemon.Containers().Expose(ctx, req.Addresses, req.Subnets, req.Masquerade)
	return exposeAnswer{addresses}, err
}

func (a *api) hide(ctx context.Context, req exposeRequest) (exposeAnswer, error) {
	addresses, err := a.daemon.Containers().Hide(ctx, req.Addresses)
	return exposeAnswer{addresses}, err
}

func newExposeCmd(connect func() *client) *cobra.Command {
	noMasquerade := false
	cmd := &cobra.Command{
		Use:   "expose [CIDR | net:SUBNET]...",
		Short: "Give this host addresses on the overlay",
		Long: `Give this host addresses on the overlay, so that it and the containers reach each
other, and print them. Without an address, or for net:SUBNET, a free one is taken: of
the subnet of this host's containers, or of that one. An address that somebody on the
overlay has is refused.

What goes between the overlay and other networks through this host is masqueraded,
in both directions, unless --no-masquerade is given. "meshd hide" takes it all back.`,
		Example: "  meshd expose 192.168.99.1/24\n  meshd expose net:192.168.99.0/24",
		RunE: func(cmd *cobra.Command, args []string) error {
			req := exposeRequest{Masquerade: !noMasquerade}
			var addresses []string
			for _, arg := range args {
				subnet, ok := strings.CutPrefix(arg, "net:")
				if !ok {
					addresses = append(addresses, arg)
					continue
				}
				p, err := netip.ParsePrefix(subnet)
				if err != nil {
					return usageError{fmt.Errorf("%q is not a subnet: write it as net:192.168.99.0/24", arg)}
				}
				req.Subnets = append(req.Subnets, p.Masked())
			}
			var err error
			if req.Addresses, err = parseAddresses(addresses); err != nil {
				return usageError{err}
			}
			answer, err := callFor[exposeAnswer](cmd.Context(), connect(), http.MethodPost, "/v1/expose", req)
			if err != nil {
				return err
			}
			return printAddresses(cmd, answer.Addresses)
		},
	}
	cmd.Flags().BoolVar(&noMasquerade, "no-masquerade", false, "do not masquerade what goes through this host")
	return cmd
}

func newHideCmd(connect func() *client) *cobra.Command {
	return &cobra.Command{
		Use:   "hide [CIDR]...",
		Short: "Take this host's addresses off the overlay",
		Long:  `Take back what "meshd expose" did for these addresses, or for all, and print them.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			addresses, err := parseAddresses(args)
			if err != nil {
				return usageError{err}
			}
			answer, err := callFor[exposeAnswer](cmd.Context(), connect(), http.MethodPost, "/v1/hide", exposeRequest{Addresses: addresses})
			if err != nil || len(answer.Addresses) == 0 {
				return err
			}
			return printAddresses(cmd, answer.Addresses)
		},
	}
}
