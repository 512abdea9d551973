package nattest

import "slices"

// expected says between hosts of which kinds there is a direct way over UDP, D, and
// where not, r: what the behaviour of both NATs allows without guessing ports (RFC
// 4787). It is symmetric, so only one half is written; columns are in the order of
// rows.
var expected = []struct {
	kind Kind
	row  string
}{
	{None, "D"},
	{FullCone, "DD"},
	{AddressRestricted, "DDD"},
	{PortRestricted, "DDDD"},
	{PortRestrictedOpen, "DDDDD"},
	{Symmetric, "DDDrrr"},
	{Double, "DDDDDrD"},
	{ShortLived, "DDDDDrDD"},
	{UDPBlocked, "rrrrrrrrr"},
}

// Direct reports whether there is a direct way over UDP between two hosts behind NATs
// of these kinds.
func Direct(a, b Kind) bool {
	at := func(k Kind) int {
		for i, e := range expected {
			if e.kind == k {
				return i
			}
		}
		return slices.Index(Kinds(), None)
	}
	i, j := at(a), at(b)
	return expected[max(i, j)].row[min(i, j)] == 'D'
}
