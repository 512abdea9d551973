package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"meshd/config"
)

func newUpCmd() *cobra.Command {
	file, pprof := "", false
	cmd := &cobra.Command{
		Use:   "up [PEER...]",
		Short: "Join the mesh, in the foreground",
		Long: `Join the mesh and stay in the foreground until SIGINT or SIGTERM. PEER is
host[:port] of a peer to connect to, as --peers has it; one suffices.

Settings come from flags, then MESHD_... environment variables, then the file,
then defaults. SIGHUP or "meshd reload" reads them again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, peer := range args {
				if err := cmd.Flags().Set("peers", peer); err != nil {
					return usageError{err}
				}
			}
			load := loader(file, cmd.Flags())
			cfg, err := load()
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			level.Set(cfg.LogLevel)
			log := newLogger(cmd.ErrOrStderr(), level)
			return run(cmd.Context(), cfg, runOptions{file: file, load: load, level: level, log: log, pprof: pprof})
		},
	}
	configFlags(cmd, &file)
	cmd.Flags().BoolVar(&pprof, "pprof", false, "answer /debug/pprof/ on the API socket")
	return cmd
}

// configFlags defines --config and a flag for each key.
func configFlags(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration file (YAML)")
	config.BindFlags(cmd.Flags())
}

// loader returns a function that reads the configuration, now and at each
// reload. --socket means --api-socket here.
func loader(file string, flags *pflag.FlagSet) func() (config.Config, error) {
	return func() (config.Config, error) {
		if s := flags.Lookup("socket"); s != nil && s.Changed && !flags.Changed("api-socket") {
			if err := flags.Set("api-socket", s.Value.String()); err != nil {
				return config.Config{}, fmt.Errorf("use --socket: %w", err)
			}
		}
		return config.Load(file, flags, transportNames()...)
	}
}
