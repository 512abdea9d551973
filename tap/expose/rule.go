package expose

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// rule is one rule of nftables: matches and a verdict. Its comment is kept in the
// rule's user data, where nft and iptables-nft read it.
type rule struct {
	comment string
	exprs   []expr.Any
}

// newRule joins matches and ends; every rule counts what it meets.
func newRule(comment string, parts ...[]expr.Any) rule {
	return rule{comment: comment, exprs: slices.Concat(parts...)}
}

func (r rule) in(t *nftables.Table, chain string) *nftables.Rule {
	n := &nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chain, Table: t}, Exprs: r.exprs}
	if r.comment != "" {
		n.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
	}
	return n
}

// The register that all expressions use.
const reg = 1

var (
	accept     = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}
	drop       = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
	leave      = []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictReturn}}
	masquerade = []expr.Any{&expr.Counter{}, &expr.Masq{}}
	count      = []expr.Any{&expr.Counter{}}
)

func compare(load expr.Any, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: op, Register: reg, Data: data}}
}

func deviceName(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	return compare(&expr.Meta{Key: key, Register: reg}, op, append([]byte(name), 0))
}

func from(device string) []expr.Any    { return deviceName(expr.MetaKeyIIFNAME, expr.CmpOpEq, device) }
func notFrom(device string) []expr.Any { return deviceName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, device) }
func to(device string) []expr.Any      { return deviceName(expr.MetaKeyOIFNAME, expr.CmpOpEq, device) }
func notTo(device string) []expr.Any   { return deviceName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, device) }

// fromNowhere matches packets without a device that they came in by. nft cannot
// read an empty name back.
func fromNowhere() []expr.Any {
	return compare(&expr.Meta{Key: expr.MetaKeyIIF, Register: reg}, expr.CmpOpEq, make([]byte, 4))
}

// family matches IPv4 or IPv6 in a table for both.
func family(p netip.Prefix) []expr.Any {
	f := byte(unix.NFPROTO_IPV4)
	if p.Addr().Is6() {
		f = unix.NFPROTO_IPV6
	}
	return compare(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, expr.CmpOpEq, []byte{f})
}

// etherType is family for hooks below IP.
func etherType(p netip.Prefix) []expr.Any {
	t := uint16(unix.ETH_P_IP)
	if p.Addr().Is6() {
		t = unix.ETH_P_IPV6
	}
	return compare(&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg}, expr.CmpOpEq,
		binary.BigEndian.AppendUint16(nil, t))
}

// port matches a destination port of TCP or UDP.
func port(protocol byte, number uint16) []expr.Any {
	return slices.Concat(
		compare(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, expr.CmpOpEq, []byte{protocol}),
		compare(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, number)))
}

// Where the addresses are: RFC 791, section 3.1, and RFC 8200, section 3.
const (
	src4, dst4 = 12, 16
	src6, dst6 = 8, 24
)

func source(op expr.CmpOp, p netip.Prefix) []expr.Any {
	if p.Addr().Is4() {
		return address(src4, op, p)
	}
	return address(src6, op, p)
}

func destination(op expr.CmpOp, p netip.Prefix) []expr.Any {
	if p.Addr().Is4() {
		return address(dst4, op, p)
	}
	return address(dst6, op, p)
}

// address matches as iptables-nft does: the whole bytes of a prefix where it has
// no others, else with a mask.
func address(offset uint32, op expr.CmpOp, p netip.Prefix) []expr.Any {
	all := p.Masked().Addr().AsSlice()
	size := uint32(len(all))
	if p.Bits()%8 == 0 {
		size = uint32(p.Bits() / 8)
		return compare(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}, op, all[:size])
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: reg, Data: all},
	}
}

// kind matches the kind, RTN_…, that the routing tables know of the source (else
// the destination) address.
func kind(ofSource bool, op expr.CmpOp, rtn uint32) []expr.Any {
	return compare(&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: ofSource, FlagDADDR: !ofSource},
		op, binary.NativeEndian.AppendUint32(nil, rtn))
}

// conntrack matches packets with one of the bits in what conntrack knows.
func conntrack(key expr.CtKey, bits uint32) []expr.Any {
	mask := binary.NativeEndian.AppendUint32(nil, bits)
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	}
}

// The bits of conntrack that are asked for, linux/netfilter/nf_conntrack_common.h.
var (
	isNew       = conntrack(expr.CtKeySTATE, expr.CtStateBitNEW)
	isPublished = conntrack(expr.CtKeySTATUS, 1<<5) // IPS_DST_NAT
)

// jumpsTo is the chain that a rule jumps to, "" for none.
func jumpsTo(r *nftables.Rule) string {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && v.Kind == expr.VerdictJump {
			return v.Chain
		}
	}
	return ""
}

// leavesBy is the device that a rule wants packets to leave by, "" for none.
func leavesBy(r *nftables.Rule) string {
	for i, e := range r.Exprs[:max(0, len(r.Exprs)-1)] {
		m, ok := e.(*expr.Meta)
		if !ok || m.Key != expr.MetaKeyOIFNAME {
			continue
		}
		if c, ok := r.Exprs[i+1].(*expr.Cmp); ok && c.Op == expr.CmpOpEq {
			return string(bytes.TrimRight(c.Data, "\x00"))
		}
	}
	return ""
}

// commentOf is the comment of a rule, whoever wrote it: iptables-nft has a match
// for it.
func commentOf(r *nftables.Rule) string {
	for _, e := range r.Exprs {
		if m, ok := e.(*expr.Match); ok && m.Name == "comment" {
			if c, ok := m.Info.(*xt.Comment); ok {
				return strings.TrimRight(string(*c), "\x00")
			}
		}
	}
	c, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return strings.TrimRight(c, "\x00")
}

// keyOf is equal for rules that do the same under the same comment, however they
// were written: counters, and how a name is padded and a comment kept, differ
// between programs.
func keyOf(comment string, exprs []expr.Any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", comment)
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter:
		case *expr.Match:
			if e.Name != "comment" {
				fmt.Fprintf(&b, " match %s", e.Name)
			}
		case *expr.Cmp:
			fmt.Fprintf(&b, " cmp %v %x", e.Op, cutName(e.Data))
		case *expr.Verdict:
			fmt.Fprintf(&b, " verdict %v %s", e.Kind, e.Chain)
		default:
			fmt.Fprintf(&b, " %T%+v", e, e)
		}
	}
	return b.String()
}

// cutName shortens padded device names; numbers and addresses are not as long.
func cutName(data []byte) []byte {
	if len(data) == unix.IFNAMSIZ && data[0] != 0 && data[unix.IFNAMSIZ-1] == 0 {
		return append(bytes.TrimRight(data, "\x00"), 0)
	}
	return data
}
