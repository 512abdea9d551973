package main

import (
	"meshd/internal/frame"
	"meshd/routing/measure"
)

// originate sends packets of our own.
func (d *daemon) originate(packets []frame.Packet) (int, error) {
	return d.forwarder.Originate(packets)
}

// tellMeter sends a message to another peer's meter.
func (d *daemon) tellMeter(dst frame.PeerName, msg []byte) error {
	return d.mesh.Unicast(measure.Channel, dst, msg)
}
