package inventorypebble

import (
	"sync"
	"time"
)

// schedule knows the active reservations: which they are, which key each answers to,
// and in which second each ends. It is what makes a million of them expire without
// a scan: a look at it costs a map access a second.
//
// The writer changes it; anyone may look.
type schedule struct {
	mu      sync.RWMutex
	active  map[[16]byte]struct{}
	byKey   map[string][16]byte
	seconds map[int64][][16]byte // by the second in which they end, rounded up
	first   int64                // no second before it has any
}

func newSchedule() *schedule {
	return &schedule{
		active:  map[[16]byte]struct{}{},
		byKey:   map[string][16]byte{},
		seconds: map[int64][][16]byte{},
	}
}

// put adds a reservation, or the later end of one that is there. Its entry under the
// earlier end stays and is found to be too early when its second comes.
func (s *schedule) put(id [16]byte, key string, ends time.Time) {
	s.active[id] = struct{}{}
	if key != "" {
		s.byKey[key] = id
	}
	second := ends.Add(time.Second - time.Nanosecond).Unix()
	if len(s.seconds) == 0 || second < s.first {
		s.first = second
	}
	s.seconds[second] = append(s.seconds[second], id)
}

func (s *schedule) remove(id [16]byte, key string) {
	delete(s.active, id)
	if s.byKey[key] == id {
		delete(s.byKey, key)
	}
}

func (s *schedule) has(id [16]byte) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.active[id]
	return ok
}

func (s *schedule) find(key string) (id [16]byte, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	id, ok = s.byKey[key]
	return id, ok
}

// due takes out up to limit active reservations whose second has come. Whoever takes
// them expires them: they are not given a second time until a restart.
func (s *schedule) due(now time.Time, limit int) [][16]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][16]byte
	for len(s.seconds) > 0 && s.first <= now.Unix() && len(out) < limit {
		ids := s.seconds[s.first]
		for len(ids) > 0 && len(out) < limit {
			if _, ok := s.active[ids[0]]; ok {
				out = append(out, ids[0])
			}
			ids = ids[1:]
		}
		if len(ids) > 0 {
			s.seconds[s.first] = ids
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
