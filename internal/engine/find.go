package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Find finds a running container, or namespace, by what a user calls it (see parse in
// reference.go): name, id or the begin of an id, with the engine in front where there
// are several, process, or namespace. A full id is preferred to a name, and a name to
// the begin of an id, as engines do. Of a container that does not run, or is on the
// host's network, it returns what is known and ErrStopped or ErrHostNetwork. After any
// other error the Container is the zero one.
func (e *Engines) Find(ctx context.Context, what string) (Container, error) {
	ref, err := parse(what)
	if err != nil {
		return Container{}, err
	}
	var c Container
	switch {
	case ref.path != "":
		c, err = e.proc.namespace(ref)
	case ref.pid != 0:
		c, err = e.findNumber(ctx, ref)
	default:
		c, err = e.findContainer(ctx, ref)
	}
	if err != nil {
		return Container{}, err
	}
	c.HostNetwork = e.proc.hostNetwork(c)
	return c, e.unusable(c)
}

// Again finds what Find has returned once more, by what it was then: another container of
// the same name is not it, nor one of another engine, whatever that is called by now. It
// returns what Find does.
func (e *Engines) Again(ctx context.Context, c Container) (Container, error) {
	switch {
	case c.At == "" && c.ID != "":
		return e.Find(ctx, "pid:"+c.ID)
	case c.At == "":
		return e.Find(ctx, c.NetNS)
	case !isKey(c.ID):
		return Container{}, badName(c.ID, "no engine gave such an id")
	}
	i := slices.IndexFunc(e.sources, func(s source) bool { return s.has(c.At) })
	if i < 0 {
		return Container{}, fault(ErrNoEngine, "%s is with an engine at %s, which is not asked any more: add it to containers.sockets, or detach the container", c, quote(c.At))
	}
	s := e.sources[i]
	found, err := s.again(ctx, c.At, c.ID)
	switch {
	case ctx.Err() != nil:
		return Container{}, fmt.Errorf("find %s: %w", c, ctx.Err())
	case errors.Is(err, ErrUnknown):
		return Container{}, err
	case err != nil:
		return Container{}, fault(ErrNoEngine, "the engine of %s does not answer (%v): start it, or see why it does not answer", c, err)
	}
	found.HostNetwork = e.proc.hostNetwork(found)
	return found, e.unusable(found)
}

// findNumber finds what a bare number means: a process, unless a container is called
// exactly so. The begin of an id it is not: that would be a matter of chance.
func (e *Engines) findNumber(ctx context.Context, ref reference) (Container, error) {
	if ref.bare {
		c, err := e.findContainer(ctx, ref)
		if err == nil || errors.Is(err, ErrAmbiguous) || ctx.Err() != nil {
			return c, err
		}
	}
	c, err := e.proc.process(ref)
	if err != nil && ref.bare {
		return c, fault(ErrUnknown, "there is neither a process %d nor a container of that name: name containers by their name, or by at least 8 digits of their id", ref.pid)
	}
	return c, err
}

// findContainer asks the engines.
func (e *Engines) findContainer(ctx context.Context, ref reference) (Container, error) {
	sources := e.present(ref.engine)
	if len(sources) == 0 {
		return Container{}, e.nobody(ref)
	}
	answers := ask(sources, func(s source) ([]Container, error) { return s.find(ctx, ref.key) })
	if err := ctx.Err(); err != nil {
		return Container{}, fmt.Errorf("find container %s: %w", quote(ref.key), err)
	}
	found := best(answers, ref)
	several := severalIn(answers)
	if several != "" && !ref.bare && (len(found) == 0 || fit(found[0], ref.key) == fitsBegin) {
		return Container{}, fault(ErrAmbiguous, "%s is the begin of more than one container's id in %s: give more of it, or the name", quote(ref.key), several)
	}
	switch len(found) {
	case 0:
		return Container{}, e.unknown(ref, answers)
	case 1:
		return found[0], nil
	}
	return Container{}, ambiguous(ref, found)
}

// How well a container fits what it was called, best last.
const (
	fitsNot = iota
	fitsBegin
	fitsName
	fitsID
)

// fit says how well. It is asked of all that engines tell: what does not fit at all is
// an odd answer.
func fit(c Container, key string) int {
	switch {
	case c.ID == key:
		return fitsID
	case c.Name == key:
		return fitsName
	case strings.HasPrefix(c.ID, key):
		return fitsBegin
	}
	return fitsNot
}

// best are those that fit best.
func best(answers []answer, ref reference) (found []Container) {
	rank := fitsBegin
	if ref.bare {
		rank = fitsName
	}
	for _, a := range answers {
		for _, c := range a.found {
			switch f := fit(c, ref.key); {
			case !Fits(ref.engine, c.Engine):
			case f > rank:
				rank, found = f, []Container{c}
			case f == rank:
				found = append(found, c)
			}
		}
	}
	return onlyOnce(found)
}

// severalIn is an engine that has several of which the name is the begin of the id.
func severalIn(answers []answer) string {
	for _, a := range answers {
		if _, several := errors.AsType[*severalError](a.err); several {
			return a.source.name()
		}
	}
	return ""
}

// nobody is the error where there is no engine to ask.
func (e *Engines) nobody(ref reference) error {
	var names []string
	for _, s := range e.sources {
		names = append(names, s.name())
	}
	absent := e.absent(ref.engine)
	if len(absent) == 0 {
		return fault(ErrUnknown, "there is no engine called %s: before the colon may be %s, pid or netns", quote(ref.engine), strings.Join(names, ", "))
	}
	return fault(ErrNoEngine, "no container engine is there to ask for %s (looked at %s): start it, or name its socket in containers.sockets", quote(ref.key), strings.Join(absent, ", "))
}

// absent are the places of engines that are not there; with a prefix only of those that
// it means.
func (e *Engines) absent(prefix string) (places []string) {
	for _, s := range e.sources {
		if s.serves(prefix) && s.absent() {
			places = append(places, s.place())
		}
	}
	return places
}

// unknown is the error where no engine has it.
func (e *Engines) unknown(ref reference, answers []answer) error {
	var asked, silent []string
	docks := false // one of those that most containers are with
	for _, a := range answers {
		_, is := a.source.(*docker)
		docks = docks || is
		if _, several := errors.AsType[*severalError](a.err); a.err != nil && !several {
			silent = append(silent, a.err.Error())
			continue
		}
		asked = append(asked, a.source.name())
	}
	if len(asked) == 0 {
		return fault(ErrNoEngine, "no container engine answers (%s): start it, or see why it does not answer", strings.Join(silent, "; "))
	}
	text := fmt.Sprintf("no container is called %s in %s", quote(ref.key), strings.Join(asked, ", "))
	switch absent := e.absent(ref.engine); {
	case len(silent) > 0:
		return fault(ErrUnknown, "%s, and others do not answer (%s): see how it is spelled, and whether its engine works", text, strings.Join(silent, "; "))
	case !docks && len(absent) > 0:
		return fault(ErrUnknown, "%s, and no other container engine is there (looked at %s): see how it is spelled, and whether its engine runs", text, strings.Join(absent, ", "))
	}
	return fault(ErrUnknown, "%s: see how it is spelled with `docker ps -a` or its like", text)
}

// ambiguous is the error where several fit equally.
func ambiguous(ref reference, found []Container) error {
	var which []string
	for _, c := range found {
		name := c.Engine + ":" + c.Name
		if c.Name != ref.key || slices.ContainsFunc(found, func(o Container) bool { return o.Engine == c.Engine && o.ID != c.ID }) {
			name = c.Engine + ":" + shortID(c.ID)
		}
		which = append(which, name)
	}
	slices.Sort(which)
	if len(which) > 8 {
		which = append(which[:8], fmt.Sprintf("%d more", len(which)-8))
	}
	return fault(ErrAmbiguous, "%d containers can be called %s: say which one, %s", len(found), quote(ref.key), strings.Join(which, " or "))
}

// unusable says why a container cannot be put on the overlay.
func (e *Engines) unusable(c Container) error {
	switch {
	case !c.Running && c.status == "restarting":
		return fault(ErrStopped, "%s is restarting: see in its log why it ends", c)
	case !c.Running && c.Engine == "docker":
		return fault(ErrStopped, "%s does not run: start it first: mesh start CIDR %s", c, cmp.Or(c.Name, shortID(c.ID)))
	case !c.Running:
		return fault(ErrStopped, "%s does not run: start it first", c)
	case c.HostNetwork:
		return fault(ErrHostNetwork, "%s uses the host's own network: start it with another one, or put the host itself on the overlay: mesh expose CIDR", c)
	case c.PID != 0 && !e.proc.alive(c.PID):
		return fault(ErrStopped, "%s has just ended, or its process %d is not in %s: where meshd runs in a container, run it with --pid host", c, c.PID, string(e.proc))
	}
	return nil
}
