package main

import (
	"cmp"
	"fmt"
	"strings"

	"meshd/tap"
	"meshd/tap/containers"
)

func (f *findings) port(s *Status) {
	if s.Port.Joined {
		return
	}
	why := s.Port.Problem
	if why == "" {
		why = "it is being joined again"
	}
	f.add(Error, "port-not-joined", "port %s is not in the bridge %s: %s", s.Port.Device, s.Port.Bridge, why)
}

// widePorts reports ports of the bridge from which large frames are lost.
func (f *findings) widePorts(s *Status) {
	if len(s.Port.Wide) == 0 {
		return
	}
	words := each(s.Port.Wide, func(w tap.WidePort) string { return fmt.Sprintf("%s (%d)", w.Name, w.MTU) })
	f.add(Warning, "wide-port", "%s of the bridge %s %s a larger MTU than our port, which has %s: %s; larger frames of the containers behind are lost: attach them by `meshd attach`, or set both ends to that",
		count(len(words), "port"), s.Port.Bridge, haveVerb(len(words)), figure(s.Port.MTU), strings.Join(words, ", "))
}

// weavePort reports what a Weave router has left on the bridge.
func (f *findings) weavePort(s *Status) {
	if s.Port.Weave != "" {
		f.add(Warning, "weave-port", "the bridge %s has the port of a Weave router: if that is stopped, its fast datapath may forward still, and frames come twice: `ip link del %s` (`weave launch` makes it again); if it runs, end it with `weave stop`",
			s.Port.Bridge, s.Port.Weave)
	}
}

// containers reports what was attached, exposed or published and is not so now. A
// container that does not run, or was not looked for yet, is no fault.
func (f *findings) containers(s *Status) {
	for _, c := range s.Containers.Containers {
		if c.Attached || c.Stopped || c.Problem == "" || c.Problem == containers.Unseen {
			continue
		}
		what, who := "container", cmp.Or(c.Name, c.ID, c.NetNS)
		if c.ID == "" {
			what = "namespace"
		}
		f.add(Warning, "container-not-attached", "%s %s is not on the overlay: %s; it is tried again until `meshd detach %s`", what, who, c.Problem, who)
	}
	for _, p := range s.Containers.Published {
		if (len(p.Listen) == 0 || p.Target == "") && p.Problem != "" {
			f.add(Warning, "not-published", "%s is not published: %s; it is tried again until `meshd unpublish %s`", p.Spec, p.Problem, p.Spec)
		}
	}
	for _, text := range s.Containers.Problems {
		f.add(Warning, "host-on-overlay", "%s", text)
	}
}
