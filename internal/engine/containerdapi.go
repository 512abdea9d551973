package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// What is asked of containerd's API is one question, whether there is a container of an
// id, and the answer is a status. So this is gRPC by hand, over HTTP/2 of the standard
// library: containerd's own client would be 4.8 MB of binary and 98 packages.
//
//	POST /containerd.services.containers.v1.Containers/Get
//	containerd-namespace: k8s.io
//	┌───────────────┬────────────────┬─────────────────────────────────┐
//	│ 0: as it is   │ length, 32 bit │ GetContainerRequest{id: 1}      │
//	└───────────────┴────────────────┴─────────────────────────────────┘
//
// See github.com/grpc/grpc, doc/PROTOCOL-HTTP2.md, and containerd,
// api/services/containers/v1/containers.proto.
const getContainer = "http://containerd/containerd.services.containers.v1.Containers/Get"

// Codes of gRPC's status.
const (
	grpcOK       = "0"
	grpcNotFound = "5"
)

// exists reports whether containerd has a container, running or not.
func (d *containerd) exists(ctx context.Context, b bundle) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := d.ask(ctx, b)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s at %s: %w", d.engine, d.socket, inWords(err))
	case status == grpcOK:
		return true, nil
	case status == grpcNotFound:
		return false, nil
	}
	return false, fmt.Errorf("%s at %s: its answer has the status %s, which says neither", d.engine, d.socket, quote(status))
}

// ask asks for a container, and returns the status of the answer.
func (d *containerd) ask(ctx context.Context, b bundle) (status string, err error) {
	// A plain dial first: its error is the system's.
	if err := reachable(ctx, d.socket); err != nil {
		return "", err
	}
	transport := &http.Transport{
		Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
		},
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, getContainer, bytes.NewReader(getRequest(b.id)))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("TE", "trailers")
	r.Header.Set("containerd-namespace", b.namespace)
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "http " + strconv.Itoa(answer.StatusCode), nil
	}
	// The container itself is no matter; the status comes behind it.
	n, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer))
	if err == nil && n == maxAnswer {
		err = fmt.Errorf("the answer has more than %d bytes", maxAnswer-1)
	}
	if err != nil {
		return "", err
	}
	if status = answer.Trailer.Get("Grpc-Status"); status == "" {
		status = answer.Header.Get("Grpc-Status") // without a container there is no behind
	}
	return status, nil
}

// getRequest is the message that asks for a container.
func getRequest(id string) []byte {
	const field1Bytes = 1<<3 | 2 // protobuf: number, and that a length follows
	message := append(binary.AppendUvarint([]byte{field1Bytes}, uint64(len(id))), id...)
	head := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(head, message...)
}
