package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Load reads the settings: flags that were given come first, then MESHD_…
// environment variables (empty ones count as unset), then the file, then
// Default. path "" means no file; flags may be nil and need not have all flags of
// BindFlags. transports are the names that exist; without any they are not
// checked.
//
// The error names everything that is wrong, one *FieldError each, joined. The
// password is read as Config.Password; see readPassword.
func Load(path string, flags *pflag.FlagSet, transports ...string) (Config, error) {
	data, fault := readPath(path)
	if fault != nil {
		return Default(), fault
	}
	c, faults := load(path, data, flags, transports)
	if len(faultsOf(faults, "password_file")) == 0 {
		faults = append(faults, readPassword(&c)...)
	}
	return c, join(faults)
}

func readPath(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, pathFault(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, pathFault(path, err)
	}
	return data, nil
}

func pathFault(path string, err error) *FieldError {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	f := &FieldError{Origin: path, Problem: "cannot be read: " + err.Error()}
	if errors.Is(err, fs.ErrNotExist) {
		f.Remedy = "every key has a default: an empty file will do"
	}
	return f
}

// load is Load without touching files: the password is left out.
func load(name string, data []byte, flags *pflag.FlagSet, transports []string) (Config, []*FieldError) {
	f, faults := readFile(name, data)
	v := viper.New()
	v.MergeConfigMap(nested(f.values)) // errors only for values that are not maps
	c := Default()
	c.sources = map[string]source{}
	for _, k := range keys {
		given := f.values[k.name]
		if k.kind != table {
			bind(v, k, flags)
			given = v.Get(k.name)
		}
		if given == nil {
			continue
		}
		s := sourceOf(k, flags, &f)
		before := c
		wrong := set(&c, k, given, s.file == nil)
		if k.name == "transports" && len(wrong) == 0 {
			wrong = checkTransports(c.Transports, transports)
		}
		if k.name == "overrides" && len(wrong) == 0 && len(faultsOf(faults, "transports")) == 0 {
			wrong = checkOverrides(c.Overrides, c.Transports, transports)
		}
		if len(wrong) > 0 {
			c = before
			faults = append(faults, s.place(k, wrong)...)
			continue
		}
		c.sources[k.name] = s
	}
	faults = append(faults, c.checkTogether()...)
	c.Warnings = misspelt(os.Environ())
	return c, faults
}

// checkTogether checks what no key shows alone.
func (c *Config) checkTogether() (faults []*FieldError) {
	if c.Bridge.Name == c.TAP.Name {
		faults = append(faults, c.placed("tap.name",
			fault(c.TAP.Name, "is the bridge's name as well", "the port needs a name of its own")))
	}
	if portOf(c.UDP.Listen) == portOf(c.Listen) {
		// The fault is that of the key that was given.
		name, value, other := "udp.listen", c.UDP.Listen, "listen"
		if _, given := c.sources[name]; !given {
			name, value, other = "listen", c.Listen, name
		}
		faults = append(faults, c.placed(name,
			fault(value, fmt.Sprintf("has the port of %s as well", other), "each needs a port of its own")))
	}
	taken := map[uint16]string{portOf(c.Listen): "listen", portOf(c.UDP.Listen): "udp.listen"}
	for _, l := range c.QUIC.Listen {
		if other, ok := taken[portOf(l)]; ok {
			faults = append(faults, c.placed("quic.listen",
				fault(l, fmt.Sprintf("has the port of %s as well", other), "each needs a port of its own")))
		}
		taken[portOf(l)] = "quic.listen"
	}
	if other, ok := taken[portOf(c.NAT.Listen)]; ok && c.NAT.Listen != "" {
		faults = append(faults, c.placed("nat.listen",
			fault(c.NAT.Listen, fmt.Sprintf("has the port of %s as well", other), "it needs a port of its own; or leave it empty")))
	}
	return faults
}

// placed completes the fault of one key with where its value came from.
func (c *Config) placed(name string, f *FieldError) *FieldError {
	k := keyNamed(name)
	return c.sources[name].place(k, []*FieldError{f})[0]
}

// set converts and checks one value. One that is wrong may get into c.
func set(c *Config, k key, v any, loose bool) []*FieldError {
	x, wrong := convert(v, k.kind, loose)
	if wrong != nil {
		return []*FieldError{wrong}
	}
	return k.set(c, x)
}

func bind(v *viper.Viper, k key, flags *pflag.FlagSet) {
	v.BindEnv(k.name, k.env()) // errors only without a key
	if flags == nil {
		return
	}
	if fl := flags.Lookup(k.flag()); fl != nil && fl.Changed {
		v.BindPFlag(k.name, fl) // errors only for a nil flag
	}
}

// nested turns {"bridge.mtu": 1} into {"bridge": {"mtu": 1}}, as viper wants it.
func nested(flat map[string]any) map[string]any {
	out := map[string]any{}
	for name, v := range flat {
		section, key, in := strings.Cut(name, ".")
		if !in {
			out[name] = v
			continue
		}
		m, _ := out[section].(map[string]any)
		if m == nil {
			m = map[string]any{}
			out[section] = m
		}
		m[key] = v
	}
	return out
}

// misspelt warns of environment variables that are nearly ours. Others with our
// prefix are left alone: container platforms set some.
func misspelt(environ []string) (warnings []string) {
	names := []string{envPrefix + "PASSWORD"}
	for _, k := range keys {
		if k.kind == table {
			if os.Getenv(k.env()) != "" {
				warnings = append(warnings, fmt.Sprintf("environment variable %s means nothing: %s is read from the file only", k.env(), k.name))
			}
			continue
		}
		names = append(names, k.env())
	}
	ours := map[string]bool{}
	for _, n := range names {
		ours[n] = true
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) || ours[name] {
			continue
		}
		for _, n := range names {
			if distance(name, n) <= 2 && len(name) <= 64 {
				warnings = append(warnings, fmt.Sprintf("environment variable %s means nothing: did you mean %s?", name, n))
				break
			}
		}
	}
	return warnings
}

func keyNamed(name string) key {
	for _, k := range keys {
		if k.name == name {
			return k
		}
	}
	return key{name: name}
}

// faultsOf returns the faults of one key.
func faultsOf(faults []*FieldError, name string) (of []*FieldError) {
	for _, f := range faults {
		if f.Field == name || strings.HasPrefix(f.Field, name+"[") {
			of = append(of, f)
		}
	}
	return of
}

// join makes one error of the faults; nil if there are none.
func join(faults []*FieldError) error {
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = f
	}
	return errors.Join(errs...)
}
