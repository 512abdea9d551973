package transport

// PathStats is a reading of one path, for status and `transport stats`.
type PathStats struct {
	Transport string    `json:"transport"`
	Active    bool      `json:"active"` // frames use this path now
	State     State     `json:"state"`
	Tx        FlowStats `json:"tx"`
	Rx        FlowStats `json:"rx"`
}
