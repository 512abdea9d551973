package transport

// PathStats is a reading of one path, for status and `transport stats`.
type PathStats struct {
	Transport string    `json:"transport"`
	Active    bool      `json:"active"` // frames use this path now
	State     State     `json:"state"`
	Tx        FlowStats `json:"tx"`
	Rx        FlowStats `json:"rx"`
	// TxRate and RxRate are over the last one to two seconds; nil while the path is
	// too young to tell.
	TxRate *Rate `json:"tx_rate"`
	RxRate *Rate `json:"rx_rate"`
	// Handshakes and Rekeys are those of all paths over this transport since the
	// neighbour is here, as State counts them.
	Handshakes uint64 `json:"handshakes"`
	Rekeys     uint64 `json:"rekeys"`
}
