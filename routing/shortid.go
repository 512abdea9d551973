package routing

// freeShortID picks at random one of the short IDs that no other known peer has.
func (t *Topology) freeShortID() (id uint16, ok bool) {
	var used [ShortIDs]bool
	free := ShortIDs
	for _, p := range t.peers {
		if p != t.self && p.HasShortID && !used[p.ShortID] {
			used[p.ShortID] = true
			free--
		}
	}
	if free == 0 {
		return 0, false
	}
	nth := t.rng.IntN(free)
	for id, taken := range used {
		if taken {
			continue
		}
		if nth == 0 {
			return uint16(id), true
		}
		nth--
	}
	return 0, false
}

// defendShortID gives up our short ID where p has the same one and the lower
// name, and takes a free one if there is any (weave protocol, section 3.6). It
// reports whether our entry changed.
func (t *Topology) defendShortID(p *Peer) bool {
	if !p.HasShortID || !t.self.HasShortID || p.ShortID != t.self.ShortID || p.Name >= t.self.Name {
		return false
	}
	t.self.ShortID, t.self.HasShortID = t.freeShortID()
	t.self.Version++
	return true
}
