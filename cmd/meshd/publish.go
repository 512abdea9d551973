package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"meshd/tap/containers"
	"meshd/tap/publish"
)

// publishRequest is the body of /v1/publish and /v1/unpublish.
type publishRequest struct {
	Spec string `json:"spec"`
}

func (a *api) publish(ctx context.Context, req publishRequest) (containers.PublishedView, error) {
	return a.daemon.Containers().Publish(ctx, req.Spec)
}

func (a *api) unpublish(ctx context.Context, req publishRequest) error {
	return a.daemon.Containers().Unpublish(ctx, req.Spec)
}

func newPublishCmd(connect func() *client) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "publish [[HOSTIP:]PORT[/udp]:CONTAINER_OR_IP:PORT]",
		Short: "Make a service on the overlay reachable on a port of this host",
		Long: `Make a service in a container, anywhere on the overlay, reachable on a port of this
host: from other machines and from the host itself, over IPv4 and IPv6. CONTAINER is
one of this host that is attached; one of another host is named by its address. It
lasts over restarts of the container, of its engine and of meshd, until "meshd
unpublish". Without an argument it lists what is published.

meshd accepts the connections itself and makes new ones to the service, from this
host's address on the overlay. A host that has none gets a free one, which is
printed.`,
		Example: "  meshd publish 80:httpd:80\n  meshd publish 127.0.0.1:5353/udp:192.168.99.10:53",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listPublished(cmd, connect(), asJSON)
			}
			if _, err := publish.ParseSpec(args[0]); err != nil {
				return usageError{err}
			}
			view, err := callFor[containers.PublishedView](cmd.Context(), connect(), http.MethodPost, "/v1/publish", publishRequest{Spec: args[0]})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), view, true)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s -> %s, from %s\n", strings.Join(view.Listen, " "), orUnknown(view.Target), view.From.Addr())
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newUnpublishCmd(connect func() *client) *cobra.Command {
	return &cobra.Command{
		Use:   "unpublish [HOSTIP:]PORT[/udp][:CONTAINER_OR_IP:PORT]",
		Short: "Take a published port back",
		Long: `Take back what "meshd publish" did for a port. The number does where it is published
once; else HOSTIP says which is meant.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, specErr := publish.ParseSpec(args[0])
			if _, err := publish.ParseHostPort(args[0]); err != nil && specErr != nil {
				return usageError{err}
			}
			_, err := connect().call(cmd.Context(), http.MethodPost, "/v1/unpublish", publishRequest{Spec: args[0]})
			return err
		},
	}
}

func listPublished(cmd *cobra.Command, c *client, asJSON bool) error {
	view, err := callFor[containers.View](cmd.Context(), c, http.MethodGet, "/v1/containers", nil)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), view.Published, true)
	}
	return printPublished(cmd.OutOrStdout(), view.Published)
}

func printPublished(w io.Writer, list []containers.PublishedView) error {
	t := newTable("PUBLISHED", "LISTEN", "TARGET", "FROM", ">CONNECTIONS", ">ACTIVE", ">RX", ">TX", "PROBLEM")
	for _, p := range list {
		from := ""
		if p.From.IsValid() {
			from = p.From.Addr().String()
		}
		t.row(p.Spec, strings.Join(p.Listen, " "), p.Target, from, fmt.Sprint(p.Connections), fmt.Sprint(p.Active),
			humanBytes(p.RxBytes), humanBytes(p.TxBytes), p.Problem)
	}
	return t.write(w)
}
