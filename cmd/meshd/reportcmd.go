package main

import (
	"bytes"

	"github.com/spf13/cobra"
)

func newReportCmd(connect func() *client) *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Print everything as weave's report does: JSON, or a Go template of it",
		Example: `  meshd report -f '{{.Router.Name}}'
  meshd report -f '{{range .Router.Connections}}{{.Address}} {{.State}}{{println}}{{end}}'
  meshd report -f '{{json .Router.Peers}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := connect().report(cmd.Context(), format)
			if err != nil {
				return err
			}
			if !bytes.HasSuffix(out, []byte("\n")) {
				out = append(out, '\n')
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Go template to execute on the report")
	return cmd
}
