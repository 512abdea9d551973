package config

// nearest returns the candidate that is fewest edits away from word, or "" if
// even that one is too far off to be meant.
func nearest(word string, candidates []string) string {
	const longest = 64 // no key is longer: a hostile one is not compared
	if len(word) > longest {
		return ""
	}
	best, fewest := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(word, c); d < fewest {
			best, fewest = c, d
		}
	}
	return best
}

// distance counts the edits from a to b: insert, delete, replace a byte, or swap
// two neighbours.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	next := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			replace := row[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			next[j] = min(replace, row[j]+1, next[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
