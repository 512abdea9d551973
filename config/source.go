package config

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
)

// source is where a value came from. The zero value is the default; otherwise
// one of flag, env and file is set, or path for a password.
type source struct {
	flag, env string
	file      *file
	line      int
	path      string
}

func sourceOf(k key, flags *pflag.FlagSet, f *file) source {
	if flags != nil && k.kind != table {
		if fl := flags.Lookup(k.flag()); fl != nil && fl.Changed {
			return source{flag: "--" + k.flag()}
		}
	}
	if k.kind != table && os.Getenv(k.env()) != "" {
		return source{env: k.env()}
	}
	if f.nodes[k.name] != nil {
		return source{file: f, line: f.line(k.name, "")}
	}
	return source{}
}

func (s source) String() string {
	switch {
	case s.flag != "":
		return s.flag
	case s.env != "":
		return s.env
	case s.file != nil:
		return fmt.Sprintf("%s:%d", s.file.name, s.line)
	case s.path != "":
		return s.path
	}
	return "default"
}

// place completes the faults of one key with where its value came from. Until
// then their field is empty, or the way from the key to what is wrong.
func (s source) place(k key, faults []*FieldError) []*FieldError {
	for _, x := range faults {
		way := x.Field
		x.Field = k.name + way
		x.Origin = s.String()
		if s.file != nil {
			x.Origin, x.Line = s.file.name, s.file.line(k.name, way)
		}
	}
	return faults
}
