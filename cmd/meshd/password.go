package main

import (
	"math"
	"unicode"
)

// passwordBits estimates from above how hard a password is to guess, in bits:
// its length times the bits of one character of the kinds in it, where a
// repeated character counts for one bit. Dictionaries know better; what is weak
// by this measure is weak.
func passwordBits(password string) float64 {
	kinds := map[int]bool{}
	seen := map[rune]bool{}
	repeats := 0
	for _, r := range password {
		kinds[characterKind(r)] = true
		if seen[r] {
			repeats++
		}
		seen[r] = true
	}
	alphabet := 0
	for size := range kinds {
		alphabet += size
	}
	if alphabet == 0 {
		return 0
	}
	return float64(len(seen))*math.Log2(float64(alphabet)) + float64(repeats)
}

// characterKind is the number of characters of r's kind. The sizes differ, so
// that they can stand for the kinds.
func characterKind(r rune) int {
	switch {
	case r >= '0' && r <= '9':
		return 10
	case r >= 'a' && r <= 'z':
		return 26
	case r >= 'A' && r <= 'Z':
		return 27 // 26, told apart from lower case
	case r < unicode.MaxASCII:
		return 33
	}
	return 100
}
