package missedunlock

import (
	"errors"
	"sync"
)

type store struct {
	mu sync.Mutex
	rw sync.RWMutex
	m  map[string]int
}

func (s *store) forgets(k string) error {
	s.mu.Lock() // want `mutex: s.mu is still locked at the return in line 17`
	if k == "" {
		return errors.New("no key")
	}
	s.m[k]++
	s.mu.Unlock()
	return nil
}

func (s *store) reads(k string) (int, bool) {
	s.rw.RLock() // want `rwmutex: s.rw is still locked`
	v, ok := s.m[k]
	if !ok {
		return 0, false
	}
	s.rw.RUnlock()
	return v, true
}

func (s *store) deferred(k string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k == "" {
		return errors.New("no key")
	}
	return nil
}

func (s *store) everyPath(k string) error {
	s.mu.Lock()
	if k == "" {
		s.mu.Unlock()
		return errors.New("no key")
	}
	s.mu.Unlock()
	return nil
}

func (s *store) lockAll() { s.mu.Lock() }

func (s *store) loop() int {
	for {
		s.mu.Lock()
		n := len(s.m)
		s.mu.Unlock()
		if n > 0 {
			return n
		}
	}
}

func (s *store) calledLocked() int {
	s.mu.Unlock()
	wait()
	s.mu.Lock()
	return len(s.m)
}

func (s *store) maybe(locked bool) int {
	if !locked {
		s.mu.Lock()
	}
	n := len(s.m)
	if !locked {
		s.mu.Unlock()
	}
	return n
}

func wait() {}
