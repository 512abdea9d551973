package pathstate

import "sync/atomic"

// Traffic tells the Run of a path that frames flow. The data plane notes it with each
// batch: a load where it is known already. The zero value is ready.
type Traffic struct {
	seen, resting atomic.Bool
}

// Note notes that frames were sent or received, and reports whether Run has to look
// at once.
func (f *Traffic) Note() (rouse bool) {
	if f.seen.Load() {
		return false
	}
	f.seen.Store(true)
	return f.resting.Load()
}

// Take reports whether frames were noted since the last call.
func (f *Traffic) Take() bool { return f.seen.Swap(false) }

// Rest notes whether the path rests from now on, and reports whether frames were
// noted while it was not known: then Run has to look again.
func (f *Traffic) Rest(resting bool) (again bool) {
	f.resting.Store(resting)
	return resting && f.seen.Load()
}
