package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"text/template"
	"text/template/parse"
)

// Bounds of a report template, which costs the daemon whatever it asks for.
const (
	maxTemplate       = 16 << 10 // bytes of source
	maxTemplateOutput = 16 << 20 // bytes
	maxTemplateText   = 64 << 10 // bytes that one print function may make
)

var (
	errTooMuch = errors.New("the template makes too much output")
	errWidth   = errors.New("width or precision is too large")
)

// wideVerb matches what makes a short format long.
var wideVerb = regexp.MustCompile(`%[^a-zA-Z%]*([0-9]{4}|\*)`)

// formatReport executes a Go template on r. The function json prints a value as
// JSON. Endless templates end with ctx.
func formatReport(ctx context.Context, r *weaveReport, source string) ([]byte, error) {
	if len(source) > maxTemplate {
		return nil, fmt.Errorf("the template is longer than %d bytes", maxTemplate)
	}
	t, err := template.New("format").Funcs(templateFuncs(ctx)).Parse(source)
	if err != nil {
		return nil, fmt.Errorf("parse template: %w", err)
	}
	tick, err := tickNode(ctx)
	if err != nil {
		return nil, err
	}
	for _, named := range t.Templates() {
		if named.Tree != nil {
			meter(named.Tree.Root, tick)
		}
	}
	out := &boundedBuffer{limit: maxTemplateOutput}
	if err := t.Execute(out, r); err != nil {
		return nil, fmt.Errorf("execute template: %w", err)
	}
	return out.Bytes(), nil
}

func templateFuncs(ctx context.Context) template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"tick":    func() (string, error) { return "", ctx.Err() },
		"print":   func(args ...any) (string, error) { return bounded(fmt.Sprint(args...)) },
		"println": func(args ...any) (string, error) { return bounded(fmt.Sprintln(args...)) },
		"printf": func(format string, args ...any) (string, error) {
			if wideVerb.MatchString(format) {
				return "", errWidth
			}
			return bounded(fmt.Sprintf(format, args...))
		},
	}
}

// bounded keeps a template from doubling a text again and again.
func bounded(s string) (string, error) {
	if len(s) > maxTemplateText {
		return "", errTooMuch
	}
	return s, nil
}

// tickNode is the parsed form of {{tick}}.
func tickNode(ctx context.Context) (parse.Node, error) {
	t, err := template.New("tick").Funcs(templateFuncs(ctx)).Parse("{{tick}}")
	if err != nil {
		return nil, err
	}
	return t.Tree.Root.Nodes[0], nil
}

// meter puts tick at the start of each list of nodes below n, so that neither
// loops nor templates that call each other go on beyond the deadline.
func meter(n *parse.ListNode, tick parse.Node) {
	if n == nil {
		return
	}
	for _, child := range n.Nodes {
		switch c := child.(type) {
		case *parse.RangeNode:
			meter(c.List, tick)
			meter(c.ElseList, tick)
		case *parse.IfNode:
			meter(c.List, tick)
			meter(c.ElseList, tick)
		case *parse.WithNode:
			meter(c.List, tick)
			meter(c.ElseList, tick)
		}
	}
	n.Nodes = append([]parse.Node{tick}, n.Nodes...)
}

// boundedBuffer takes so many bytes and no more.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, errTooMuch
	}
	return b.Buffer.Write(p)
}
