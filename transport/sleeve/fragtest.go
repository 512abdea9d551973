package sleeve

import "time"

// Times of the fragmentation test (weave protocol, section 6.7). A test is 41 IP
// fragments, any of which may be lost, so it is tried again.
const (
	fragEvery = 5 * time.Minute
	fragTries = 3
	fragWait  = time.Second // after the first try; doubled after each
)

// fragTest finds out whether IP fragments get through to the neighbour and its
// stack puts them together. While a test runs the last result stays in force.
// The zero value starts at the first call of next; the path's mutex guards it.
type fragTest struct {
	ok    bool
	tries int       // of this test
	at    time.Time // of the next try, the verdict, or the next test
}

// next reports whether to send a test now.
func (f *fragTest) next(now time.Time) bool {
	if now.Before(f.at) {
		return false
	}
	if f.tries == fragTries {
		f.ok, f.tries, f.at = false, 0, now.Add(fragEvery)
		return false
	}
	f.at = now.Add(fragWait << f.tries)
	f.tries++
	return true
}

// passed takes the neighbour's word that a test has arrived, however late.
func (f *fragTest) passed(now time.Time) {
	if f.at.IsZero() {
		return // none was sent yet
	}
	f.ok, f.tries, f.at = true, 0, now.Add(fragEvery)
}
