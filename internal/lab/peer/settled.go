package peer

import (
	"context"
	"errors"
	"fmt"
)

// Settled is nil when a change of the topology is over: the peers hold the same
// entries of each other, and the ways that each passes floods on make a tree from
// every one of them to all others. Until then floods may be lost or doubled.
func Settled(ctx context.Context, peers ...*Peer) error {
	reports := make(map[string]Report, len(peers))
	for _, p := range peers {
		r, err := p.Report(ctx)
		if err != nil {
			return err
		}
		reports[p.Name] = r
	}
	return errors.Join(agree(reports), trees(reports))
}

// agree compares the entries that the reports, by peer name, have of each other.
func agree(reports map[string]Report) error {
	type entry struct{ uid, version uint64 }
	first := map[string]entry{}
	for holder, r := range reports {
		seen := 0
		for _, k := range r.Peers {
			if _, ours := reports[k.Name]; !ours {
				continue
			}
			seen++
			e := entry{k.UID, k.Version}
			if was, ok := first[k.Name]; !ok {
				first[k.Name] = e
			} else if was != e {
				return fmt.Errorf("%s holds entry %+v of %s, another peer %+v", holder, e, k.Name, was)
			}
		}
		if seen != len(reports) {
			return fmt.Errorf("%s knows %d of %d peers", holder, seen, len(reports))
		}
	}
	return nil
}

// trees follows the floods of each peer along the tables of all.
func trees(reports map[string]Report) error {
	via := map[string]map[string][]string{} // holder, source
	for holder, r := range reports {
		via[holder] = map[string][]string{}
		for _, b := range r.Routes.Broadcast {
			via[holder][b.Source] = b.Via
		}
	}
	for source := range reports {
		reached := map[string]bool{source: true}
		for queue := []string{source}; len(queue) > 0; queue = queue[1:] {
			for _, next := range via[queue[0]][source] {
				if reached[next] {
					return fmt.Errorf("a flood of %s reaches %s twice, the second time from %s", source, next, queue[0])
				}
				reached[next] = true
				queue = append(queue, next)
			}
		}
		if len(reached) != len(reports) {
			return fmt.Errorf("a flood of %s reaches %d of %d peers", source, len(reached), len(reports))
		}
	}
	return nil
}
