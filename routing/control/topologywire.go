package control

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"meshd/internal/frame"
	"meshd/routing"
)

// ErrTopology says that a payload of the topology channel is not what routers
// send. A single entry out of bounds is not that.
var ErrTopology = errors.New("topology payload is malformed")

// Gob type ids of our topology payloads; captured routers use the same.
const (
	peerTypeID        = 66
	connectionTypeID  = 67
	connectionsTypeID = 68 // slice of the one before
)

// The two structs of a topology payload, weave protocol section 3.3. Only the
// names of the fields matter.
var (
	peerTypeDef = gobStructDef(peerTypeID, "peerSummary",
		gobField{"NameByte", gobBytes},
		gobField{"NickName", gobString},
		gobField{"UID", gobUint},
		gobField{"Version", gobUint},
		gobField{"ShortID", gobUint},
		gobField{"HasShortID", gobBool})
	connectionTypeDef = gobStructDef(connectionTypeID, "connectionSummary",
		gobField{"NameByte", gobBytes},
		gobField{"RemoteTCPAddr", gobString},
		gobField{"Outbound", gobBool},
		gobField{"Established", gobBool})
	connectionsTypeDef = []byte{
		0x0d, 0xff, 0x87, // 13 bytes; definition of 68
		0x02, 0x01, 0x02, 0xff, 0x88, 0x00, // slice: common part: id 68
		0x01, 0xff, 0x86, 0x00, 0x00, // element: 67
	}
)

// gobStructDef is the message that defines a struct type.
func gobStructDef(id int64, name string, fields ...gobField) []byte {
	def := appendGobID(nil, -id)
	def = append(def, byte(gobKindStruct), 1) // kind, its common part
	def = appendGobString(append(def, 1), name)
	def = appendGobID(append(def, 1), id)
	def = appendGobUint(append(def, 0, 1), uint64(len(fields)))
	for _, f := range fields {
		def = appendGobString(append(def, 1), f.name)
		def = appendGobID(append(def, 1), f.id)
		def = append(def, 0)
	}
	def = append(def, 0, 0)
	return appendGobString(nil, def)
}

// EncodeTopology gives the payload that carries entries on the topology channel.
// Equal entries give equal bytes.
func EncodeTopology(entries []routing.Peer) []byte {
	var dst, value []byte
	for i, p := range entries {
		if i == 0 {
			dst = append(dst, peerTypeDef...)
		}
		value = appendPeerGob(appendGobID(value[:0], peerTypeID), p)
		dst = appendGobString(dst, value)
		if i == 0 {
			dst = append(append(dst, connectionsTypeDef...), connectionTypeDef...)
		}
		value = append(appendGobID(value[:0], connectionsTypeID), 0)
		value = appendGobUint(value, uint64(len(p.Connections)))
		for _, c := range p.Connections {
			value = appendConnectionGob(value, c)
		}
		dst = appendGobString(dst, value)
	}
	return dst
}

func appendPeerGob(dst []byte, p routing.Peer) []byte {
	w := gobStructWriter{dst: dst}
	w.name(1, p.Name)
	w.string(2, p.NickName)
	w.uint(3, p.UID)
	w.uint(4, p.Version)
	w.uint(5, uint64(p.ShortID))
	w.bool(6, p.HasShortID)
	return append(w.dst, 0)
}

func appendConnectionGob(dst []byte, c routing.Connection) []byte {
	w := gobStructWriter{dst: dst}
	w.name(1, c.Peer)
	w.string(2, c.RemoteAddr)
	w.bool(3, c.Outbound)
	w.bool(4, c.Established)
	return append(w.dst, 0)
}

// gobStructWriter appends the fields of a struct; zero values are left out.
type gobStructWriter struct {
	dst  []byte
	last byte // number of the last field written
}

func (w *gobStructWriter) field(n byte) {
	w.dst = append(w.dst, n-w.last)
	w.last = n
}

func (w *gobStructWriter) uint(n byte, u uint64) {
	if u != 0 {
		w.field(n)
		w.dst = appendGobUint(w.dst, u)
	}
}

func (w *gobStructWriter) bool(n byte, b bool) {
	if b {
		w.uint(n, 1)
	}
}

func (w *gobStructWriter) string(n byte, s string) {
	if s != "" {
		w.field(n)
		w.dst = appendGobString(w.dst, s)
	}
}

func (w *gobStructWriter) name(n byte, name frame.PeerName) {
	var b [frame.PeerNameLen]byte
	name.Put(b[:])
	w.field(n)
	w.dst = appendGobString(w.dst, b[:])
}

// DecodeTopology reads a payload of the topology channel. Entries that exceed
// the bounds of weave protocol section 9.2 are left out, and so is what exceeds
// routing.MaxPeers and routing.MaxLinks: stock routers pass such entries on, so
// the neighbour they came from is not to blame. A payload that is not a whole
// number of entries is ErrTopology. Memory is in proportion to the payload.
func DecodeTopology(payload []byte) ([]routing.Peer, error) {
	d := topologyDecoder{gobStream: newGobStream(payload)}
	var (
		entries []routing.Peer
		links   int
	)
	for {
		p, ok := d.entry()
		if d.err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTopology, d.err)
		}
		if !ok {
			return entries, nil
		}
		if d.bad || len(entries) >= routing.MaxPeers || links+len(p.Connections) > routing.MaxLinks {
			continue
		}
		entries = append(entries, p)
		links += len(p.Connections)
	}
}

// topologyDecoder reads entries, each a peer and its connections.
type topologyDecoder struct {
	*gobStream
	bad bool // the entry being read exceeds a bound
}

// entry reads the next entry; ok is false at the end of the payload.
func (d *topologyDecoder) entry() (p routing.Peer, ok bool) {
	d.bad = false
	value, id, ok := d.next()
	if !ok {
		return p, false
	}
	d.peer(&value, id, &p)
	d.end(&value)
	value, id, ok = d.next()
	if !ok {
		d.fail(errGobShort)
		return p, false
	}
	d.connections(&value, id, &p)
	d.end(&value)
	return p, true
}

// end checks that a value filled its message.
func (d *topologyDecoder) end(c *gobCursor) {
	if c.err == nil && len(c.rest) > 0 {
		c.fail(errGobType)
	}
	if c.err != nil {
		d.fail(c.err)
	}
}

func (d *topologyDecoder) peer(c *gobCursor, id int64, p *routing.Peer) {
	d.eachField(c, id, func(name string, id int64) bool {
		switch name {
		case "NameByte":
			p.Name = d.nameBytes(c, id)
		case "NickName":
			p.NickName = d.text(c, id, routing.MaxNickName)
		case "UID":
			p.UID = d.number(c, id)
		case "Version":
			p.Version = d.number(c, id)
		case "ShortID":
			p.ShortID = uint16(min(d.number(c, id), routing.ShortIDs))
		case "HasShortID":
			p.HasShortID = d.flag(c, id)
		default:
			return false
		}
		return true
	})
	if p.Name == 0 { // also where the field is missing
		d.bad = true
	}
	if !p.HasShortID || p.ShortID >= routing.ShortIDs {
		p.ShortID, p.HasShortID = 0, false
	}
}

func (d *topologyDecoder) connections(c *gobCursor, id int64, p *routing.Peer) {
	t := d.types[id]
	if t.kind != gobKindSlice {
		c.fail(errGobType)
		return
	}
	n := c.uint()
	if n > uint64(len(c.rest)) {
		c.fail(errGobShort)
		return
	}
	if n > routing.MaxConnections {
		d.bad = true
	}
	for ; n > 0 && c.err == nil; n-- {
		conn := d.connection(c, t.elem)
		if !d.bad && c.err == nil {
			p.Connections = append(p.Connections, conn)
		}
	}
	if d.bad || c.err != nil {
		return
	}
	sortConnections(p.Connections)
	for i := range p.Connections {
		if i > 0 && p.Connections[i].Peer == p.Connections[i-1].Peer {
			d.bad = true
		}
	}
}

func sortConnections(conns []routing.Connection) {
	slices.SortFunc(conns, func(a, b routing.Connection) int { return cmp.Compare(a.Peer, b.Peer) })
}

func (d *topologyDecoder) connection(c *gobCursor, id int64) (conn routing.Connection) {
	d.eachField(c, id, func(name string, id int64) bool {
		switch name {
		case "NameByte":
			conn.Peer = d.nameBytes(c, id)
		case "RemoteTCPAddr":
			conn.RemoteAddr = d.text(c, id, routing.MaxRemoteAddr)
		case "Outbound":
			conn.Outbound = d.flag(c, id)
		case "Established":
			conn.Established = d.flag(c, id)
		default:
			return false
		}
		return true
	})
	if conn.Peer == 0 {
		d.bad = true
	}
	return conn
}

// want checks a field's type against ours.
func want(c *gobCursor, got, wanted int64) {
	if got != wanted {
		c.fail(errGobType)
	}
}

func (d *topologyDecoder) nameBytes(c *gobCursor, id int64) frame.PeerName {
	want(c, id, gobBytes)
	b := c.bytes()
	if len(b) != frame.PeerNameLen {
		d.bad = true
		return 0
	}
	return frame.PeerNameOf(b)
}

func (d *topologyDecoder) text(c *gobCursor, id int64, most int) string {
	want(c, id, gobString)
	b := c.bytes()
	if len(b) > most {
		d.bad = true
		return ""
	}
	return string(b)
}

func (d *topologyDecoder) number(c *gobCursor, id int64) uint64 {
	want(c, id, gobUint)
	return c.uint()
}

func (d *topologyDecoder) flag(c *gobCursor, id int64) bool {
	want(c, id, gobBool)
	return c.uint() != 0
}
