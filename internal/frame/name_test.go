package frame

import (
	"encoding/json"
	"testing"
)

func TestMACInJSON(t *testing.T) {
	got, err := json.Marshal(map[string]MAC{"mac": {0xfe, 0xe4, 0xd1, 0x7e, 0x73, 0x73}})
	if want := `{"mac":"fe:e4:d1:7e:73:73"}`; string(got) != want || err != nil {
		t.Errorf("JSON %s, %v, want %s", got, err, want)
	}
}
