package config

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is text that no form of printing shows: fmt with any verb, slog, JSON
// and YAML all give "(set)" or "(none)". string(s) is the text itself.
type Secret string

// String says whether there is a secret.
func (s Secret) String() string {
	if s == "" {
		return "(none)"
	}
	return "(set)"
}

// Format prints String for every verb; %x or %d would show the text otherwise.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
