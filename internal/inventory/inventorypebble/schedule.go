package inventorypebble

import (
	"sync"
	"time"
)

// schedule knows the active reservations: which they are, which key each answers to,
// and in which second each ends. It is what makes a million of them expire without
// a scan: a look at it costs a map access a second.
//
// The writer changes it, under mu; anyone may look.
type schedule struct {
	mu      sync.RWMutex
	active  map[slot][16]byte // reservation by its slot
	seconds map[int64][]entry // by the second in which they end, rounded up
	first   int64             // no second before it has any
}

// slot is where an active reservation stands: its key where it has one, else its ID.
type slot [16]byte

type entry struct {
	slot slot
	id   [16]byte
}

func newSchedule() *schedule {
	return &schedule{active: map[slot][16]byte{}, seconds: map[int64][]entry{}}
}

// slotOf returns where a reservation stands. Keys that are not 16 bytes are hashed.
func slotOf(id [16]byte, key string) slot {
	switch len(key) {
	case 0:
		return id
	case len(slot{}):
		return slot([]byte(key))
	default:
		return hashKey(key)
	}
}

// put adds a reservation, or the later end of one that is there. Its entry under the
// earlier end stays and is found to be too early when its second comes.
func (s *schedule) put(id [16]byte, key string, ends time.Time) {
	at := slotOf(id, key)
	s.active[at] = id
	second := ends.Add(time.Second - time.Nanosecond).Unix()
	if len(s.seconds) == 0 || second < s.first {
		s.first = second
	}
	s.seconds[second] = append(s.seconds[second], entry{at, id})
}

func (s *schedule) remove(id [16]byte, key string) {
	if at := slotOf(id, key); s.active[at] == id {
		delete(s.active, at)
	}
}

func (s *schedule) has(id [16]byte, key string) bool {
	found, ok := s.find(slotOf(id, key))
	return ok && found == id
}

func (s *schedule) find(at slot) (id [16]byte, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	id, ok = s.active[at]
	return id, ok
}

// due takes out up to limit active reservations whose second has come. Whoever takes
// them expires them: they are not given a second time until a restart.
func (s *schedule) due(now time.Time, limit int) [][16]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][16]byte
	for len(s.seconds) > 0 && s.first <= now.Unix() && len(out) < limit {
		entries := s.seconds[s.first]
		for len(entries) > 0 && len(out) < limit {
			if e := entries[0]; s.active[e.slot] == e.id {
				out = append(out, e.id)
			}
			entries = entries[1:]
		}
		if len(entries) > 0 {
			s.seconds[s.first] = entries
			break
		}
		delete(s.seconds, s.first)
		s.first++
	}
	return out
}

func (s *schedule) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.active)
}
