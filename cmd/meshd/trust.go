package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"meshd/config"
	"meshd/internal/frame"
	"meshd/internal/identity"
)

// TrustReport is who we are, and whom we let in.
type TrustReport struct {
	Identity identity.Key // our own public key
	Keys     []identity.Key
	Stock    bool
	Pins     []identity.Pin
}

// TrustView is TrustReport for --json.
type TrustView struct {
	Keys  []string `json:"keys"`  // trust.keys; empty: every key may connect
	Stock bool     `json:"stock"` // trust.stock
	Pins  []Pin    `json:"pins"`
}

// Pin is the key that a peer's name is pinned to.
type Pin struct {
	Name     string    `json:"name"`
	NickName string    `json:"nickname"` // when it was seen first
	Key      string    `json:"key"`
	Since    time.Time `json:"since"`
	Trusted  bool      `json:"trusted"` // the key is in trust.keys
}

func newTrustView(r TrustReport) TrustView {
	return TrustView{
		Keys: each(r.Keys, identity.Key.String), Stock: r.Stock,
		Pins: each(r.Pins, func(p identity.Pin) Pin {
			return Pin{
				Name: p.Name.String(), NickName: clean(p.NickName), Key: p.Key.String(), Since: p.Since,
				Trusted: slices.Contains(r.Keys, p.Key),
			}
		}),
	}
}

// ForgetKey forgets the pinned key of a peer.
func (d *daemon) ForgetKey(name frame.PeerName) (identity.Pin, error) {
	pin, ok, err := d.pins.Forget(name)
	if err == nil && !ok {
		err = fmt.Errorf("no key is pinned for %v", name)
	}
	if err == nil {
		d.opt.log.Info("pinned key forgotten", "peer", name, "key", pin.Key)
	}
	return pin, err
}

// forgetKeyRequest is the body of /v1/trust/forget.
type forgetKeyRequest struct {
	Name frame.PeerName `json:"name"`
}

func (a *api) forgetKey(_ context.Context, req forgetKeyRequest) (Pin, error) {
	pin, err := a.daemon.ForgetKey(req.Name)
	if err != nil {
		return Pin{}, err
	}
	return newTrustView(TrustReport{Pins: []identity.Pin{pin}}).Pins[0], nil
}

// trustFiles are identity and pins without a daemon.
type trustFiles struct {
	file string
	cmd  *cobra.Command
}

func (f *trustFiles) bind(cmd *cobra.Command) {
	f.cmd = cmd
	cmd.Flags().StringVarP(&f.file, "config", "c", "", "configuration file (YAML), to go without a daemon")
	cmd.Flags().String("state-dir", "", "state directory, to go without a daemon")
}

func (f *trustFiles) asked() bool {
	return f.cmd.Flags().Changed("config") || f.cmd.Flags().Changed("state-dir")
}

func (f *trustFiles) load() (config.Config, error) {
	return config.Load(f.file, f.cmd.Flags(), transportNames()...)
}

func (f *trustFiles) pins() (config.Config, *identity.Pins, error) {
	cfg, err := f.load()
	if err != nil {
		return cfg, nil, err
	}
	pins, err := identity.OpenPins(cfg.StateDir, slog.New(slog.NewTextHandler(f.cmd.ErrOrStderr(), nil)))
	return cfg, pins, err
}

func newIdentityCmd(connect func() *client) *cobra.Command {
	var files trustFiles
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Print this host's public key",
		Long: `Print this host's public key, for trust.keys of other hosts.

The running daemon is asked. Without one, or with --config or --state-dir, the key is
read from the state directory, and made there if there is none yet, as the daemon
would at its first start.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, name, err := ownKey(cmd, connect(), &files)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					Key  string `json:"key"`
					Name string `json:"name,omitempty"` // not known without a daemon
				}{key, name}, true)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key)
			return err
		},
	}
	files.bind(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// ownKey asks the daemon, else the files.
func ownKey(cmd *cobra.Command, c *client, files *trustFiles) (key, name string, err error) {
	var fromDaemon error
	if !files.asked() {
		s, err := c.status(cmd.Context())
		if err == nil {
			return s.Identity, s.Name, nil
		}
		if !errors.Is(err, errNoDaemon) {
			return "", "", err
		}
		fromDaemon = err
	}
	cfg, err := files.load()
	if err != nil {
		return "", "", err
	}
	if err := checkStateDir(cfg.StateDir); err != nil {
		return "", "", errors.Join(fromDaemon, err)
	}
	id, _, err := identity.Open(cfg.StateDir)
	if err != nil {
		return "", "", err
	}
	if cfg.Name != 0 {
		name = cfg.Name.String()
	}
	return id.Public().String(), name, nil
}

func newTrustCmd(connect func() *client) *cobra.Command {
	return group("trust", "Show and forget the keys of peers", newTrustListCmd(connect), newTrustForgetCmd(connect))
}

func newTrustListCmd(connect func() *client) *cobra.Command {
	var files trustFiles
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Trusted keys, and the keys that peers had when they were seen first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, _, err := trusted(cmd, connect(), &files)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), v, true)
			}
			return printTrust(cmd.OutOrStdout(), v)
		},
	}
	files.bind(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// trusted asks the daemon, else the files; s is nil then.
func trusted(cmd *cobra.Command, c *client, files *trustFiles) (TrustView, *Status, error) {
	if !files.asked() {
		s, err := c.status(cmd.Context())
		if err == nil {
			return s.Trust, s, nil
		}
		if !errors.Is(err, errNoDaemon) {
			return TrustView{}, nil, err
		}
	}
	cfg, pins, err := files.pins()
	if err != nil {
		return TrustView{}, nil, err
	}
	return newTrustView(TrustReport{Keys: cfg.Trust.Keys, Stock: cfg.Trust.Stock, Pins: pins.All()}), nil, nil
}

// printTrust writes one line per key.
func printTrust(w io.Writer, v TrustView) error {
	t := newTable("PEER", "NICKNAME", "KEY", "TRUSTED", "FIRST SEEN")
	for _, p := range v.Pins {
		t.row(p.Name, orUnknown(p.NickName), p.Key, trustedWord(p.Trusted), p.Since.Format("2006-01-02 15:04"))
	}
	for _, k := range v.Keys {
		if !slices.ContainsFunc(v.Pins, func(p Pin) bool { return p.Key == k }) {
			t.row(unknown, unknown, k, trustedWord(true), "never")
		}
	}
	return t.write(w)
}

func trustedWord(listed bool) string {
	if listed {
		return "yes"
	}
	return "no"
}

func newTrustForgetCmd(connect func() *client) *cobra.Command {
	var files trustFiles
	cmd := &cobra.Command{
		Use:   "forget NAME",
		Short: "Forget the key of a peer, and take the next one it shows",
		Long: `Forget the key that a peer had when it was seen first, so that the next one it
shows is taken: after it was installed anew, for example. NAME is its name, or a
nickname that only one pinned peer has.

The running daemon is asked. Without one, or with --config or --state-dir, the file in
the state directory is changed.`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := connect()
			v, s, err := trusted(cmd, c, &files)
			if err != nil {
				return err
			}
			pin, err := findPin(v.Pins, s, args[0])
			if err != nil {
				return err
			}
			if err := forgetPin(cmd, c, &files, s != nil, pin); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the key %s of %s(%s) is forgotten: the next one it shows is taken\n", pin.Key, pin.Name, pin.NickName)
			return err
		},
	}
	files.bind(cmd)
	return cmd
}

func forgetPin(cmd *cobra.Command, c *client, files *trustFiles, running bool, pin Pin) error {
	name, err := frame.ParsePeerName(pin.Name)
	if err != nil {
		return err
	}
	if running {
		return c.forgetKey(cmd.Context(), name)
	}
	_, pins, err := files.pins()
	if err != nil {
		return err
	}
	_, _, err = pins.Forget(name)
	return err
}

// findPin finds the pin that arg names: by name, else by the nickname that the peer
// had or, where the daemon's status s is there, has now.
func findPin(pins []Pin, s *Status, arg string) (Pin, error) {
	name, isName := asName(arg)
	var now []string // who has the nickname now
	if s != nil {
		for _, p := range s.Peers {
			if p.NickName == arg {
				now = append(now, p.Name)
			}
		}
	}
	var found []Pin
	for _, p := range pins {
		if isName && p.Name == name || !isName && (p.NickName == arg || slices.Contains(now, p.Name)) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 0:
		return Pin{}, fmt.Errorf("no key is pinned for %s: `meshd trust list` shows those that are", arg)
	case 1:
		return found[0], nil
	}
	names := each(found, func(p Pin) string { return p.Name })
	return Pin{}, fmt.Errorf("%q is the nickname of %d pinned peers: %v; use a name", arg, len(found), names)
}
