package config

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// Marshal returns the effective settings as a file that Load reads, each value
// with where it came from in a comment. The password is not in it, only whether
// there is one.
func (c Config) Marshal() []byte {
	root := &yaml.Node{Kind: yaml.MappingNode}
	sections := map[string]*yaml.Node{}
	for _, k := range keys {
		to, name := root, k.name
		if section, rest, in := strings.Cut(k.name, "."); in {
			to, name = sectionNode(root, sections, section), rest
		}
		n := valueNode(k.get(&c))
		comment := c.Source(k.name)
		if k.name == "password_file" && c.Password != "" {
			comment += "; password from " + c.Source("password")
		}
		keyNode := textNode(name)
		if n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
			keyNode.LineComment = comment
		} else {
			n.LineComment = comment
		}
		to.Content = append(to.Content, keyNode, n)
	}
	out, err := yaml.Marshal(root)
	if err != nil {
		return []byte("# " + err.Error() + "\n") // not for nodes made here
	}
	return out
}

func sectionNode(root *yaml.Node, sections map[string]*yaml.Node, name string) *yaml.Node {
	n := sections[name]
	if n == nil {
		n = &yaml.Node{Kind: yaml.MappingNode}
		sections[name] = n
		root.Content = append(root.Content, textNode(name), n)
	}
	return n
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// valueNode never fails: v is a string, an int, a bool or strings.
func valueNode(v any) *yaml.Node {
	n := &yaml.Node{}
	if l, ok := v.([]string); ok && l == nil {
		v = []string{}
	}
	n.Encode(v)
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}
