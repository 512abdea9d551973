package config

import (
	"fmt"
	"strconv"
	"strings"
)

// convert brings v to the Go type of a kind. loose is for values from outside a
// file, which are text: there a list is separated by commas or blanks.
func convert(v any, k kind, loose bool) (any, *FieldError) {
	switch k {
	case text:
		return toText(v)
	case number:
		return toNumber(v)
	case boolean:
		return toBool(v)
	case table:
		if l, ok := v.([]any); ok {
			return l, nil
		}
		return nil, wrongType(v, "a list", "")
	}
	if s, ok := v.(string); ok && loose {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }), nil
	}
	return toList(v)
}

func toText(v any) (any, *FieldError) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	return nil, wrongType(v, "text", "put it in quotes")
}

func toNumber(v any) (any, *FieldError) {
	switch n := v.(type) {
	case int:
		return n, nil
	case string:
		if i, err := strconv.Atoi(strings.TrimSpace(n)); err == nil {
			return i, nil
		}
	}
	return nil, wrongType(v, "a whole number", "")
}

func toBool(v any) (any, *FieldError) {
	switch b := v.(type) {
	case bool:
		return b, nil
	case string:
		switch strings.ToLower(strings.TrimSpace(b)) {
		case "true", "yes", "on", "1":
			return true, nil
		case "false", "no", "off", "0":
			return false, nil
		}
	}
	return nil, wrongType(v, "true or false", "")
}

func toList(v any) (any, *FieldError) {
	switch l := v.(type) {
	case []string:
		return l, nil
	case []any:
		out := make([]string, 0, len(l))
		for i, item := range l {
			s, ok := item.(string)
			if !ok {
				f := wrongType(item, "text", "put it in quotes")
				f.Field = "[" + strconv.Itoa(i) + "]"
				return nil, f
			}
			out = append(out, s)
		}
		return out, nil
	case string:
		return nil, wrongType(v, "a list", "write ["+l+"]")
	}
	return nil, wrongType(v, "a list", "")
}

func wrongType(v any, wanted, remedy string) *FieldError {
	f := fault("", "is "+typeName(v)+" where "+wanted+" belongs", remedy)
	switch v.(type) {
	case string, int, int64, uint64, float64, bool:
		f.Value = fmt.Sprint(v)
	}
	return f
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "text"
	case bool:
		return "true or false"
	case int, int64, uint64, float64:
		return "a number"
	case []any, []string:
		return "a list"
	case map[string]any, map[any]any:
		return "a section with keys"
	}
	return "something else"
}
