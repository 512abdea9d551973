package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile is the largest file that is read, in bytes.
const MaxFile = 1 << 20

// file is a YAML file's values by key, each with its node for the line.
type file struct {
	name   string
	values map[string]any
	nodes  map[string]*yaml.Node
}

// readFile reads the YAML in data. What it cannot use is in the faults, the rest
// is usable.
func readFile(name string, data []byte) (file, []*FieldError) {
	f := file{name: name, values: map[string]any{}, nodes: map[string]*yaml.Node{}}
	if len(data) > MaxFile {
		return f, []*FieldError{{Origin: name, Problem: fmt.Sprintf("is larger than %d bytes", MaxFile)}}
	}
	root, err := parseYAML(data)
	if err != nil {
		return f, []*FieldError{yamlFault(name, err)}
	}
	if root == nil {
		return f, nil
	}
	faults := f.section("", root)
	for _, x := range faults {
		x.Origin = name
	}
	return f, faults
}

// parseYAML returns the node of the only document; nil: there is none.
func parseYAML(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func yamlFault(name string, err error) *FieldError {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	f := &FieldError{Origin: name}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		f.Line, _ = strconv.Atoi(m[1])
		text = strings.Replace(text, m[0], "", 1)
	}
	// The parser may quote what it choked on, over several lines.
	f.Problem = "is not YAML: " + oneLine(errors.New(text))
	return f
}

func oneLine(err error) string {
	return strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
}

// section collects the keys of a mapping: the whole file (prefix empty) or one
// section of it.
func (f *file) section(prefix string, n *yaml.Node) (faults []*FieldError) {
	n = resolve(n)
	if n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return []*FieldError{{
			Line: n.Line, Field: strings.TrimSuffix(prefix, "."),
			Problem: "is " + nodeKind(n) + " where keys belong",
			Remedy:  "wanted `key: value` lines",
		}}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], resolve(n.Content[i+1])
		name := prefix + k.Value
		switch {
		case seen[name]:
			faults = append(faults, &FieldError{Line: k.Line, Field: name, Problem: "is there twice"})
			delete(f.values, name)
			delete(f.nodes, name)
		case isSection(name):
			faults = append(faults, f.section(name+".", v)...)
		case known(name):
			faults = append(faults, f.value(name, k, v)...)
		default:
			faults = append(faults, unknown(name, k.Line))
		}
		seen[name] = true
	}
	return faults
}

func (f *file) value(name string, k, v *yaml.Node) []*FieldError {
	var x any
	if err := v.Decode(&x); err != nil { // an alias that contains itself, say
		return []*FieldError{{Line: k.Line, Field: name, Problem: "cannot be read: " + oneLine(err)}}
	}
	if x == nil {
		return nil // `peers:` with nothing after it means the default
	}
	f.values[name], f.nodes[name] = x, v
	return nil
}

// line is where a key's value is, or what a way leads to from there, such as
// "[1].transports[0]"; where that ends early, the last node on it.
func (f *file) line(name, way string) int {
	n := f.nodes[name]
	if n == nil {
		return 0
	}
	at := n.Line
	for _, step := range waySteps.FindAllString(way, -1) {
		if n = child(resolve(n), step); n == nil {
			break
		}
		at = n.Line
	}
	return at
}

var waySteps = regexp.MustCompile(`\[\d+\]|\.[^.\[]+`)

// child is the item or the key's value that a step leads to, nil if there is none.
func child(n *yaml.Node, step string) *yaml.Node {
	if key, ok := strings.CutPrefix(step, "."); ok {
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
		return nil
	}
	i, err := strconv.Atoi(strings.Trim(step, "[]"))
	if err != nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
		return nil
	}
	return n.Content[i]
}

// unknown is the fault of a key that does not exist. Its value is not shown: it
// may be a password.
func unknown(name string, line int) *FieldError {
	x := &FieldError{Line: line, Field: name, Problem: "unknown key"}
	if strings.Contains(strings.ToLower(name), "password") {
		x.Remedy = "a password is never in this file: use password_file or MESHD_PASSWORD"
	} else if near := nearestKey(name); near != "" {
		x.Remedy = fmt.Sprintf("did you mean `%s`?", near)
	}
	if len(x.Field) > 64 {
		x.Field = quoteShort(x.Field)
	}
	return x
}

// nearestKey looks for the whole name, and for its last part alone, which finds
// keys that were written outside their section.
func nearestKey(name string) string {
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
		section, _, in := strings.Cut(k.name, ".")
		if in {
			names = append(names, section)
		}
	}
	if near := nearest(name, names); near != "" {
		return near
	}
	last := name[strings.LastIndex(name, ".")+1:]
	for _, k := range names {
		if k[strings.LastIndex(k, ".")+1:] == last {
			return k
		}
	}
	return ""
}

// isSection reports whether name has keys below it.
func isSection(name string) bool {
	for _, k := range keys {
		if strings.HasPrefix(k.name, name+".") {
			return true
		}
	}
	return false
}

// resolve follows an alias: what it stands for is never one itself.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func nodeKind(n *yaml.Node) string {
	if n.Kind == yaml.SequenceNode {
		return "a list"
	}
	return "a single value"
}
