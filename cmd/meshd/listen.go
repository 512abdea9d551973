package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"meshd/config"
	"meshd/routing/control"
)

// listeners are where the daemon is spoken to.
type listeners struct {
	api  net.Listener // our API, a unix socket
	http net.Listener // weave's API; nil: it is not wanted
	tcp  *control.TCP // sessions
}

// listen opens all of them or none.
func listen(ctx context.Context, cfg config.Config, log *slog.Logger) (in listeners, err error) {
	defer func() {
		if err != nil {
			in.Close()
		}
	}()
	api, err := listenSocket(cfg.API.Socket)
	if err != nil {
		return in, err
	}
	in.api = api
	if cfg.API.HTTP != "" {
		if in.http, err = listenHTTP(cfg.API.HTTP, log); err != nil {
			return in, fmt.Errorf("%w (api.http; empty: off)", err)
		}
	}
	if in.tcp, err = control.ListenTCP(ctx, cfg.Listen); err != nil {
		return in, portTaken(err, "listen", cfg.Listen, "tcp")
	}
	return in, nil
}

// Close closes those that are open.
func (in listeners) Close() error {
	var errs []error
	if in.tcp != nil {
		errs = append(errs, in.tcp.Close())
	}
	for _, l := range []net.Listener{in.http, in.api} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}
