package frame

import "encoding/binary"

// TCP options (RFC 9293, section 3.2).
const (
	tcpOptEnd    = 0
	tcpOptNop    = 1
	tcpOptMSS    = 2
	tcpOptMSSLen = 4
)

// minMSS bounds ClampMSS: Linux sends no smaller segments (TCP_MIN_SND_MSS).
const minMSS = 48

// ClampMSS lowers the maximum segment size that a TCP SYN announces, with or
// without ACK, so that the segments it asks for fit IP packets of mtu bytes
// (RFC 9293, section 3.7.1: no options counted). data is a whole frame, with up
// to two VLAN tags, which are not part of mtu; it is changed in place. The
// checksum is adjusted by the difference (RFC 1624), so that a wrong one stays
// wrong. It reports whether it changed anything: not without the option, nor
// where the segments fit, nor where mtu leaves less than 48 bytes. Frames that
// are no SYN cost a few loads.
func ClampMSS(data []byte, mtu int) bool {
	// The flags of most TCP segments are where they are without tags and options.
	const flags = HeaderLen + ipv4HeaderLen + tcpFlags
	if len(data) < flags+1 {
		return false
	}
	if data[HeaderLen] == 0x45 && data[offType] == 0x08 && data[offType+1] == 0 &&
		(data[HeaderLen+ipv4Proto] != protoTCP || data[flags]&tcpSYN == 0) {
		return false
	}
	l, ok := findLayers(data)
	if !ok || l.proto != protoTCP || data[l.l4+tcpFlags]&tcpSYN == 0 {
		return false
	}
	limit := mtu - ipv4HeaderLen - tcpHeaderLen
	if l.v6 {
		limit = mtu - ipv6HeaderLen - tcpHeaderLen
	}
	if limit < minMSS {
		return false
	}
	return clampOptions(data[l.l4:l.payload], uint16(min(limit, 0xffff)))
}

// clampOptions lowers the MSS options of the TCP header t to limit.
func clampOptions(t []byte, limit uint16) (changed bool) {
	for at := tcpHeaderLen; at < len(t); {
		switch t[at] {
		case tcpOptEnd:
			return changed
		case tcpOptNop:
			at++
			continue
		}
		if at+1 >= len(t) || t[at+1] < 2 || at+int(t[at+1]) > len(t) {
			return changed
		}
		if t[at] == tcpOptMSS && t[at+1] == tcpOptMSSLen {
			changed = lower(t, at+2, limit) || changed
		}
		at += int(t[at+1])
	}
	return changed
}

// lower writes limit to offset at of the TCP header t if it has more there.
func lower(t []byte, at int, limit uint16) bool {
	was := binary.BigEndian.Uint16(t[at:])
	if was <= limit {
		return false
	}
	binary.BigEndian.PutUint16(t[at:], limit)
	if at%2 != 0 { // each byte counts in the other half of its word
		was, limit = was<<8|was>>8, limit<<8|limit>>8
	}
	sum := ^binary.BigEndian.Uint16(t[tcpChecksum:])
	binary.BigEndian.PutUint16(t[tcpChecksum:], ^add(add(sum, ^was), limit))
	return true
}
