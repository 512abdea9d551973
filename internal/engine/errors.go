package engine

import (
	"errors"
	"fmt"
)

// What the errors of Find and Again are, for errors.Is. Each error is one sentence that says what to do.
var (
	// ErrBadName: nothing can be called so.
	ErrBadName = errors.New("no name of a container")
	// ErrUnknown: the engines that answered do not have it, or there is no such
	// namespace. It may come yet, or be with an engine that did not answer.
	ErrUnknown = errors.New("unknown container")
	// ErrGone: what was found before has gone, and does not come back: its own engine
	// says so, or the process has ended. It is an ErrUnknown too.
	ErrGone = fmt.Errorf("container that has gone: %w", ErrUnknown)
	// ErrAmbiguous: there is more than one.
	ErrAmbiguous = errors.New("more than one container")
	// ErrStopped: it does not run. Find returns the Container too.
	ErrStopped = errors.New("container that does not run")
	// ErrHostNetwork: it has no network namespace of its own. Find returns the
	// Container too.
	ErrHostNetwork = errors.New("container on the host's network")
	// ErrNoEngine: none of the engines asked answered.
	ErrNoEngine = errors.New("no container engine answers")
)

// findError is a sentence for people, with its kind for errors.Is.
type findError struct {
	kind error
	text string
}

func (e *findError) Error() string { return e.text }
func (e *findError) Unwrap() error { return e.kind }

func fault(kind error, format string, args ...any) error {
	return &findError{kind, fmt.Sprintf(format, args...)}
}

// gone is the error of a container that its engine has removed.
func gone(id, engine string) error {
	return fault(ErrGone, "container %s is no more: %s has removed it", shortID(id), engine)
}

func badName(what, why string) error {
	return fault(ErrBadName, "%s is not the name of a container: %s", quote(what), why)
}
