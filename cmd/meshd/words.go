package main

import (
	"fmt"
	"strings"
)

// sentenceList says "a", "a and b", "a, b and c".
func sentenceList(list []string) string {
	last := len(list) - 1
	if last < 1 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:last], ", ") + " and " + list[last]
}

// count says "1 target", "2 targets", "2 addresses".
func count(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "s"):
		noun += "es"
	default:
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

func doVerb(n int) string   { return verb(n, "does", "do") }
func haveVerb(n int) string { return verb(n, "has", "have") }
func beVerb(n int) string   { return verb(n, "is", "are") }

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
