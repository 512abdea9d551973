package sleeve

import (
	"testing"

	"meshd/transport"
	"meshd/transport/transporttest"
)

// factory makes a transport on a simulated host.
func factory(n transporttest.Node) (transport.Transport, error) {
	var sockets []PacketConn
	for _, a := range n.Addrs {
		s, err := n.Host.Listen(a)
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, s)
	}
	return New(Config{Local: n.Local.Name, Deliver: n.Deliver, Log: n.Log, Sockets: sockets})
}

func TestConformance(t *testing.T) {
	transporttest.Run(t, factory, transporttest.Traits{
		Plain: true, Aggregates: true, Follows: true, IPv6: true,
		Overhead: func(sealed bool) int {
			if sealed {
				return 86
			}
			return 62
		},
	})
}
