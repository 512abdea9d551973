package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meshd/config"
	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/nat"
	"meshd/nat/portmap"
	"meshd/routing/signal"
)

// NATReport is what is known of the NATs before this host.
type NATReport struct {
	IPv4       nat.Behaviour   `json:"ipv4"`
	IPv6       nat.Behaviour   `json:"ipv6"`
	Candidates []nat.Candidate `json:"candidates"`
	// Mapping says what came of asking the gateway for a mapping.
	Mapping string `json:"port_mapping,omitempty"`
	// DoubleNAT says whether the gateway is behind another NAT itself.
	DoubleNAT  nat.Verdict    `json:"double_nat"`
	STUN       *nat.Counts    `json:"stun,omitempty"`
	Signalling *signal.Counts `json:"signalling,omitempty"`
	Lifetime   string         `json:"lifetime,omitempty"` // of the mapping of an idle socket; empty: not measured
	Daemon     bool           `json:"daemon"`             // it is the daemon's socket that was looked from
}

// errNoTraversal says that there is no socket to look from.
var errNoTraversal = errors.New("no configured transport goes through NATs: add punch or quic to transports")

// NAT asks the STUN servers anew.
func (d *daemon) NAT(ctx context.Context) (NATReport, error) {
	t := d.traversal
	if t == nil {
		return NATReport{}, errNoTraversal
	}
	r := NATReport{Daemon: true, DoubleNAT: nat.Unknown}
	if t.mapper != nil { // the answer may come too late for this report
		t.mapper.Again()
	}
	r.IPv4, r.IPv6, r.Candidates = t.agent.Survey(ctx)
	if t.mapper == nil {
		r.Mapping = "off by nat.port_mapping"
	} else if m, why := t.mapper.Current(); m.External.IsValid() {
		r.DoubleNAT = doubleNAT(m, r.IPv4.Mapped)
		r.Mapping = fmt.Sprintf("%v by %s of %v", m.External, m.Protocol, m.Gateway)
		if m.DoubleNAT {
			r.Mapping += ", which is behind another NAT itself: of no use"
		}
	} else {
		r.Mapping = "none: " + why
	}
	stun, signalling := t.agent.Counts(), t.channel.Counts()
	r.STUN, r.Signalling = &stun, &signalling
	return r, nil
}

// doubleNAT tells from the outside address that a gateway says it has, and those that
// servers see, whether there is another NAT before it.
func doubleNAT(m portmap.Mapping, mapped []netip.AddrPort) nat.Verdict {
	switch {
	case m.DoubleNAT:
		return nat.Yes
	case len(mapped) == 0:
		return nat.Unknown
	}
	for _, at := range mapped {
		if at.Addr() == m.External.Addr() {
			return nat.No
		}
	}
	return nat.Yes
}

func (a *api) nat(w http.ResponseWriter, r *http.Request) {
	report, err := a.daemon.NAT(r.Context())
	if err != nil {
		writeError(w, http.StatusUnprocessableEntity, err)
		return
	}
	writeJSON(w, http.StatusOK, report)
}

func newNATCmd(connect func() *client) *cobra.Command {
	asJSON, lives := false, false
	var servers []string
	cmd := &cobra.Command{
		Use:   "nat",
		Short: "Say what the NATs before this host do",
		Long: `Say what the NATs before this host do, in the terms of RFC 4787, for IPv4 and IPv6:
how outside ports are chosen (mapping), who may send to them (filtering), whether they
can be reached from inside (hairpin), and at which addresses peers are told to look for
us, with the answer of each STUN server. double NAT says whether the gateway, where it
spoke NAT-PMP or UPnP, is behind another NAT.

The running daemon is asked, which looks from its own socket and asks its neighbours,
nat.stun_servers, and the gateway for its port mapping. Without a daemon, or with
--server, a socket of this command asks the servers given. Where neighbours do not
suffice one server does, if it has a second address (RFC 5780, coturn for example);
filtering is measured from another socket then.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := natReport(cmd.Context(), connect(), servers)
			if err != nil {
				return err
			}
			if lives {
				if r.Lifetime, err = lifetime(cmd.Context(), r, cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r, true)
			}
			return r.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringSliceVar(&servers, "server", nil, "STUN servers to ask, host[:port] each, from a socket of this command")
	cmd.Flags().BoolVar(&lives, "lifetime", false, "measure how long the mapping of an idle socket lives, too: takes several times that long")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func natReport(ctx context.Context, c *client, servers []string) (r NATReport, err error) {
	if len(servers) > 0 {
		return surveyAlone(ctx, servers)
	}
	data, err := c.call(ctx, http.MethodGet, "/v1/nat", nil)
	if err != nil {
		return r, fmt.Errorf("%w\nwithout a daemon name STUN servers to ask: meshd nat --server host[:port]", err)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read the answer of the daemon: %w", err)
	}
	return r, nil
}

// surveyAlone asks servers from a socket of our own.
func surveyAlone(ctx context.Context, servers []string) (r NATReport, err error) {
	for _, s := range servers {
		if _, _, fault := config.ParseSTUNServer(s); fault != nil {
			return r, usageError{fmt.Errorf("--server: %w", fault)}
		}
	}
	r.DoubleNAT = nat.Unknown
	t, end, err := lone(ctx, servers, nil)
	if err != nil {
		return r, err
	}
	if len(t.resolveServers(ctx)) == 0 {
		return r, errors.Join(fmt.Errorf("none of the names %s has an address", strings.Join(servers, ", ")), end())
	}
	r.IPv4, r.IPv6, r.Candidates = t.agent.Survey(ctx)
	return r, end()
}

// lone is a traversal without a mesh, at a port of its own, that knows only servers, and
// which addresses to refuse; nil: none. end closes it.
func lone(ctx context.Context, servers []string, refuse func(netip.Addr) string) (t *traversal, end func() error, err error) {
	conns, err := udp.ListenPort(":0", udp.Offload{})
	if err != nil {
		return nil, nil, err
	}
	m, err := mux.New(each(conns, func(c *udp.Conn) mux.Socket { return c }), nil)
	if err != nil {
		return nil, nil, err
	}
	if refuse == nil {
		refuse = func(netip.Addr) string { return "" }
	}
	t = &traversal{addresses: &hostAddresses{refuse: refuse}, servers: servers, log: slog.New(slog.DiscardHandler)}
	t.agent = nat.New(nat.Config{
		Port: m.Port(), Families: familiesOf(m), Addresses: t.addresses.all, Servers: t.resolveServers, Refuse: refuse, Fresh: freshAgent(refuse),
		Send: func(to netip.AddrPort, b []byte, hops int) error { return sendFrom(m, to, b, hops) },
	})
	m.Handle(mux.STUN, t.taker)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1) // Run's; read once by end
	go func() { ended <- m.Run(ctx) }()
	return t, func() error { cancel(); return <-ended }, nil
}

// freshAgent makes agents at sockets of their own.
func freshAgent(refuse func(netip.Addr) string) func(context.Context) (*nat.Agent, func() error, error) {
	return func(ctx context.Context) (*nat.Agent, func() error, error) {
		t, end, err := lone(ctx, nil, refuse)
		if err != nil {
			return nil, nil, err
		}
		return t.agent, end, nil
	}
}

// errNoServers says that there is nobody to measure lifetimes with.
var errNoServers = errors.New("lifetime of mappings: no STUN server answered: it takes a meshd peer that can be reached")

// lifetime measures how long mappings live, with the first server that answers to
// sockets that it does not know.
func lifetime(ctx context.Context, r NATReport, progress io.Writer) (text string, err error) {
	answers := slices.DeleteFunc(slices.Concat(r.IPv4.Answers, r.IPv6.Answers), func(x nat.Answer) bool { return x.Err != "" })
	if len(answers) == 0 {
		return "", errNoServers
	}
	a, endA, err := lone(ctx, nil, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, endA()) }()
	b, endB, err := lone(ctx, nil, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, endB()) }()
	for _, x := range answers {
		d, most, err := nat.Lifetime(ctx, a.agent, b.agent, x.Addr, func(d time.Duration, lived bool) {
			word := "gone"
			if lived {
				word = "there"
			}
			fmt.Fprintf(progress, "after %v without traffic the mapping is %s\n", d, word)
		})
		switch {
		case errors.Is(err, nat.ErrNoAnswer), errors.Is(err, nat.ErrNoResponsePort):
			continue
		case err != nil:
			return "", fmt.Errorf("lifetime of mappings, with %s at %v: %w", x.Server, x.Addr, err)
		case most:
			return fmt.Sprintf("more than %v", d), nil
		}
		return fmt.Sprintf("%v", d), nil
	}
	return "", errors.New("lifetime of mappings: no STUN server answers a new socket, and at another of its ports: it takes a meshd peer that can be reached")
}

// print writes it for people.
func (r NATReport) print(out io.Writer) error {
	var b strings.Builder
	from := "the daemon's socket"
	if !r.Daemon {
		from = "a socket of this command"
	}
	fmt.Fprintf(&b, "looked from %s\n", from)
	for _, f := range []struct {
		name string
		b    nat.Behaviour
	}{{"IPv4", r.IPv4}, {"IPv6", r.IPv6}} {
		fmt.Fprintf(&b, "\n%s: %s\n", f.name, f.b)
		if len(f.b.Answers) == 0 {
			continue
		}
		if len(f.b.Mapped) > 0 {
			fmt.Fprintf(&b, "  outside   %s\n", strings.Join(each(f.b.Mapped, netip.AddrPort.String), ", "))
			fmt.Fprintf(&b, "  port      %s\n", portWords(f.b))
		}
		if f.b.Hairpin != "" {
			fmt.Fprintf(&b, "  hairpin   %s\n", f.b.Hairpin)
		}
		t := newTable("  SERVER", "ADDRESS", "SEES US AS", ">RTT", "ERROR")
		for _, a := range f.b.Answers {
			mapped, rtt := "", ""
			if a.Err == "" {
				mapped, rtt = a.Mapped.String(), fmt.Sprintf("%.1f ms", a.RTT.Seconds()*float64(time.Second/time.Millisecond))
			}
			t.row("  "+a.Server, a.Addr.String(), mapped, rtt, a.Err)
		}
		if err := t.write(&b); err != nil {
			return err
		}
	}
	if r.Lifetime != "" {
		fmt.Fprintf(&b, "\nmappings live for %s without traffic\n", r.Lifetime)
	}
	if len(r.Candidates) > 0 {
		fmt.Fprintf(&b, "\noffered to peers: %s\n", strings.Join(each(r.Candidates, nat.Candidate.String), ", "))
	}
	if r.Mapping != "" {
		fmt.Fprintf(&b, "port mapping: %s\n", r.Mapping)
	}
	if r.DoubleNAT != "" {
		fmt.Fprintf(&b, "double NAT: %s\n", r.DoubleNAT)
	}
	if r.STUN != nil && r.Signalling != nil {
		fmt.Fprintf(&b, "STUN: %d answered, %d malformed, %d unasked, %d forged, %d too many, %d addresses refused, %d checks withheld\n",
			r.STUN.Answered, r.STUN.Malformed, r.STUN.Unasked, r.STUN.Forged, r.STUN.Excess, r.STUN.Refused, r.STUN.Unspent)
		fmt.Fprintf(&b, "signalling: %d forged, %d replayed, %d refused, %d too many\n",
			r.Signalling.Forged, r.Signalling.Replayed, r.Signalling.Refused, r.Signalling.Excess)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// portWords says how the outside port is chosen.
func portWords(b nat.Behaviour) string {
	switch {
	case b.Preserves:
		return "kept as it is"
	case b.Step != 0:
		return fmt.Sprintf("new per destination, in steps of %d", b.Step)
	case b.Hard():
		return "new per destination, irregular"
	}
	return "another one, the same for all destinations that were looked at"
}
