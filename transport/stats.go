package transport

import "time"

// PathStats is a reading of one path, for status and `transport stats`.
type PathStats struct {
	Transport string    `json:"transport"`
	Active    bool      `json:"active"` // frames use this path now
	State     State     `json:"state"`
	Tx        FlowStats `json:"tx"`
	Rx        FlowStats `json:"rx"`

	Rank   int  `json:"rank"`   // place in the order for this neighbour, from 1; 0: not used
	Pinned bool `json:"pinned"` // chosen by hand
	Unused bool `json:"unused"` // one end leaves the transport out for the other
	Lossy  bool `json:"lossy"`  // up, and loses too many probes to be preferred
	// Since is when frames came to use the transport; zero where not Active.
	Since time.Time `json:"since"`
	// HealthySince is since when the transport is up and not Lossy; zero: it is not.
	HealthySince time.Time `json:"healthy_since"`
	// TakesOver is when it becomes Active if it stays healthy; zero: another one is
	// better, or as good.
	TakesOver time.Time `json:"takes_over"`
	// TxRate and RxRate are over the last one to two seconds; nil while the path is
	// too young to tell.
	TxRate *Rate `json:"tx_rate"`
	RxRate *Rate `json:"rx_rate"`
	// Handshakes and Rekeys are those of all paths over this transport since the
	// neighbour is here, as State counts them.
	Handshakes uint64 `json:"handshakes"`
	Rekeys     uint64 `json:"rekeys"`
}
