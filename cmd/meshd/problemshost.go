package main

import (
	"cmp"

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
	for _, w := range s.Port.Wide {
		f.add(Warning, "wide-port", "%s on the bridge %s has MTU %d, our port %s: larger frames of the container behind it are lost; set both its ends to that",
			w.Name, s.Port.Bridge, w.MTU, figure(s.Port.MTU))
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
