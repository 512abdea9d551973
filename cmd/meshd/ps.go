package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"meshd/tap/containers"
)

func (a *api) containers(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, a.daemon.Containers().View())
}

func newPsCmd(connect func() *client) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "ps [CONTAINER...]",
		Short: "List this host's containers on the overlay",
		Long: `List this host's containers on the overlay: id, MAC and addresses of each; the line
weave:expose is the host itself. A container that does not run, or is not on the
overlay for another reason, has "-" for its MAC.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			view, err := callFor[containers.View](cmd.Context(), connect(), http.MethodGet, "/v1/containers", nil)
			if err != nil {
				return err
			}
			if view.Containers, err = selectContainers(view.Containers, args); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), view, true)
			}
			return printContainers(cmd.OutOrStdout(), view, len(args) == 0)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// selectContainers are those that were named: by name, id, the begin of an id, or
// namespace.
func selectContainers(list []containers.ContainerView, names []string) ([]containers.ContainerView, error) {
	if len(names) == 0 {
		return list, nil
	}
	var out []containers.ContainerView
	for _, name := range names {
		i := slices.IndexFunc(list, func(c containers.ContainerView) bool {
			return c.Name == name || c.NetNS == name || c.ID != "" && len(name) >= 3 && strings.HasPrefix(c.ID, name)
		})
		if i < 0 {
			return nil, fmt.Errorf("no container %q is on the overlay of this host: `meshd ps` lists those that are", name)
		}
		out = append(out, list[i])
	}
	return out, nil
}

// printContainers has the layout of weave ps.
func printContainers(w io.Writer, v containers.View, host bool) error {
	var b strings.Builder
	if host && len(v.Exposed) > 0 {
		fmt.Fprintf(&b, "weave:expose %s %s\n", orUnknown(v.MAC), strings.Join(each(v.Exposed, func(e containers.ExposureView) string { return e.Address.String() }), " "))
	}
	for _, c := range v.Containers {
		id := c.NetNS
		if c.ID != "" {
			id = c.ID[:min(12, len(c.ID))]
		}
		mac := c.MAC
		if !c.Attached {
			mac = "-"
		}
		fmt.Fprintf(&b, "%s %s %s\n", id, orUnknown(mac), strings.Join(each(c.Addresses, netip.Prefix.String), " "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
