package demo

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"meshd/internal/lab"
)

// pair is a way from one container to another.
type pair struct{ from, to netip.Addr }

// cell is what was measured on it.
type cell struct {
	rtt   time.Duration // of a ping; the best of some
	fetch time.Duration // of the other's page, connecting included
}

// matrix is what was measured between containers.
type matrix map[pair]cell

// pings per pair: the best of them says what the mesh takes, the first one also
// has ARP in it.
const pings = 5

// measure pings and fetches between all containers of the hosts.
func (s *story) measure(ctx context.Context, hosts []*host) (matrix, error) {
	m := matrix{}
	for _, a := range hosts {
		for _, b := range hosts {
			if a == b {
				continue
			}
			c, err := between(ctx, a, b)
			if err != nil {
				return nil, fmt.Errorf("from %s to %s: %w", a.inside(), b.inside(), err)
			}
			m[pair{a.inside(), b.inside()}] = c
		}
	}
	return m, nil
}

func between(ctx context.Context, a, b *host) (c cell, err error) {
	for range pings {
		rtt, err := pingOnce(ctx, a, b)
		if err != nil {
			return c, err
		}
		if c.rtt == 0 || rtt < c.rtt {
			c.rtt = rtt
		}
	}
	// The web server may have to begin to listen yet.
	err = lab.Poll(ctx, pollTime, func() error {
		begin := time.Now()
		body, err := a.container.Get(ctx, "http://"+b.inside().String()+"/")
		if err == nil && strings.TrimSpace(body) != b.greeting() {
			err = fmt.Errorf("%s answers %q", b.inside(), body)
		}
		c.fetch = time.Since(begin)
		return err
	})
	return c, err
}

// pingOnce pings until one is answered, a second each.
func pingOnce(ctx context.Context, a, b *host) (rtt time.Duration, err error) {
	err = lab.Poll(ctx, pollTime, func() (err error) {
		limited, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		rtt, err = a.container.PingOnce(limited, b.inside())
		return err
	})
	return rtt, err
}

// lines prints the matrix as a table: a row per container that asks.
func (m matrix) lines(hosts []*host) []string {
	head := fmt.Sprintf("%-15s", "ping / HTTP")
	for _, b := range hosts {
		head += fmt.Sprintf("  %-19s", b.inside())
	}
	out := []string{head}
	for _, a := range hosts {
		row := fmt.Sprintf("%-15s", a.inside())
		for _, b := range hosts {
			text := "-"
			if c, ok := m[pair{a.inside(), b.inside()}]; ok {
				text = millis(c.rtt) + " / " + millis(c.fetch)
			}
			row += fmt.Sprintf("  %-19s", text)
		}
		out = append(out, strings.TrimRight(row, " "))
	}
	return out
}

// rtt prints the round trip of a pair, "-" where it was not measured.
func (m matrix) rtt(a, b *host) string {
	c, ok := m[pair{a.inside(), b.inside()}]
	if !ok {
		return "-"
	}
	return millis(c.rtt)
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
