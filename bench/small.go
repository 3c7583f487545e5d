package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/penstockhq/penstock/internal/inventory"
	"github.com/penstockhq/penstock/internal/pebbledb"
)

func keyHash(n int) (h pebbledb.KeyHash) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	copy(h[:], sum[:])
	return h
}

// keysExperiment looks up keys that were never used, as nearly all requests do.
func keysExperiment(_ context.Context, o options) error {
	dir, err := os.MkdirTemp("", "penstock-bench-")
	if err != nil {
		return err
	}
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		return err
	}
	prefix := []byte("ok")
	keep := 24 * time.Hour
	keys, err := pebbledb.OpenKeyTable(db.DB, prefix, keep)
	if err != nil {
		return err
	}
	stored := o.scale(1_000_000, 10_000)
	start := time.Now().Add(-keep)
	var rows pebbledb.Rows
	for n := range stored {
		keys.Put(&rows, keyHash(n), start.Add(time.Duration(n)*keep/time.Duration(stored)), make([]byte, 33))
		if n%10_000 == 9_999 {
			batch := db.NewBatch()
			if err := errors.Join(rows.Into(batch), batch.Commit(pebble.NoSync)); err != nil {
				return err
			}
		}
	}
	if err := db.Flush(); err != nil {
		return err
	}
	buckets, err := bucketsOf(db, prefix)
	if err != nil {
		return err
	}
	looks := o.scale(300_000, 5_000)
	timed := func(look func(h pebbledb.KeyHash) error) (time.Duration, error) {
		begin := time.Now()
		for n := range looks {
			if err := look(keyHash(-1 - n)); err != nil {
				return 0, err
			}
		}
		return time.Since(begin) / time.Duration(looks), nil
	}
	with, err := timed(func(h pebbledb.KeyHash) error { _, err := keys.Get(db, h); return err })
	if err != nil {
		return err
	}
	without, err := timed(func(h pebbledb.KeyHash) error {
		for _, b := range buckets {
			if _, err := pebbledb.Lookup(db, append(append([]byte(nil), b...), h[:]...)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	table([]string{"look-up of a fresh key among " + count(float64(stored)), "ns", "ratio"}, [][]string{
		{"rows only (Pebble's own Bloom filters)", count(float64(without.Nanoseconds())), "1.0"},
		{"Bloom filter in memory, then rows", count(float64(with.Nanoseconds())), fmt.Sprintf("%.1f", float64(without)/float64(with))},
	})
	keys.Close()
	return errors.Join(db.Close(), os.RemoveAll(dir))
}

// bucketsOf returns the prefixes of the buckets that hold rows.
func bucketsOf(db *pebbledb.DB, prefix []byte) ([][]byte, error) {
	it, err := db.NewIter(pebbledb.PrefixRange(prefix))
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for ok := it.First(); ok; {
		bucket := append([]byte(nil), it.Key()[:len(prefix)+4]...)
		found = append(found, bucket)
		ok = it.SeekGE(pebbledb.After(bucket))
	}
	return found, it.Close()
}

// counts is what the stock table holds for a place.
type counts struct {
	onHand, reserved int64
	version          uint64
}

// stockMap is a map as the stock table needs it.
type stockMap interface {
	load(p inventory.Place) (counts, bool)
	store(p inventory.Place, c counts)
}

type xsyncMap struct {
	m *xsync.Map[inventory.Place, counts]
}

func (x xsyncMap) load(p inventory.Place) (counts, bool) { return x.m.Load(p) }
func (x xsyncMap) store(p inventory.Place, c counts)     { x.m.Store(p, c) }

type syncMap struct{ m *sync.Map }

func (s syncMap) load(p inventory.Place) (counts, bool) {
	v, ok := s.m.Load(p)
	if !ok {
		return counts{}, false
	}
	return v.(counts), true
}
func (s syncMap) store(p inventory.Place, c counts) { s.m.Store(p, c) }

type lockedMap struct {
	mu sync.RWMutex
	m  map[inventory.Place]counts
}

func (l *lockedMap) load(p inventory.Place) (counts, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c, ok := l.m[p]
	return c, ok
}

func (l *lockedMap) store(p inventory.Place, c counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[p] = c
}

type shardedMap [64]lockedMap

func (s *shardedMap) shard(p inventory.Place) *lockedMap {
	h := uint32(2166136261)
	for i := range len(p.SKU) {
		h = (h ^ uint32(p.SKU[i])) * 16777619
	}
	return &s[h%64]
}
func (s *shardedMap) load(p inventory.Place) (counts, bool) { return s.shard(p).load(p) }
func (s *shardedMap) store(p inventory.Place, c counts)     { s.shard(p).store(p, c) }

// mapsExperiment has goroutines read and write places of a large table.
func mapsExperiment(_ context.Context, o options) error {
	places := make([]inventory.Place, o.scale(100_000, 1_000))
	for i := range places {
		places[i] = inventory.Place{SKU: sku(i), Location: inventory.DefaultLocation}
	}
	sharded := &shardedMap{}
	for i := range sharded {
		sharded[i].m = map[inventory.Place]counts{}
	}
	maps := []struct {
		name string
		m    stockMap
	}{
		{"xsync.Map (the stock table's)", xsyncMap{xsync.NewMap[inventory.Place, counts]()}},
		{"sync.Map", syncMap{&sync.Map{}}},
		{"map with 64 shards of RWMutex", sharded},
		{"map with one RWMutex", &lockedMap{m: map[inventory.Place]counts{}}},
	}
	var rows [][]string
	base := map[int]float64{}
	for _, m := range maps {
		for _, p := range places {
			m.m.store(p, counts{})
		}
		row := []string{m.name}
		for _, writes := range []int{10, 50} {
			rate := mapRate(m.m, places, writes, o.took/2)
			if base[writes] == 0 {
				base[writes] = rate
			}
			row = append(row, count(rate/1e6*1000)+" k", fmt.Sprintf("%.2f", rate/base[writes]))
		}
		rows = append(rows, row)
	}
	table([]string{fmt.Sprintf("%d goroutines", 4*runtime.GOMAXPROCS(0)), "90/10 reads/writes, operations/s", "ratio", "50/50, operations/s", "ratio"}, rows)
	return nil
}

func mapRate(m stockMap, places []inventory.Place, writes int, took time.Duration) float64 {
	var total int64
	var mu sync.Mutex
	var all sync.WaitGroup
	begin := time.Now()
	for g := range 4 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			n := int64(0)
			for time.Since(begin) < took {
				for range 1000 {
					p := places[random.IntN(len(places))]
					if random.IntN(100) < writes {
						m.store(p, counts{onHand: n})
					} else {
						m.load(p)
					}
					n++
				}
			}
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	all.Wait()
	return float64(total) / time.Since(begin).Seconds()
}
