package pgdb

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// watch looks at the counters all the time: they tell what other processes did. It is
// one small query, needs no LISTEN (which a pooler in transaction mode cannot do), and
// finds by itself what it missed while the database was away.
type watch struct {
	answered atomic.Int64 // when the database last answered, Unix nanoseconds
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// watchEvery is how stale what a process knows of others' changes may be, about.
const watchEvery = 100 * time.Millisecond

// Watch begins to look at the counters; changed gets them whenever one has moved, and
// is called from one goroutine. An error of changed has it called again. Close ends it.
func (db *DB) Watch(changed func(ctx context.Context, counters map[string]uint64) error) {
	ctx, cancel := context.WithCancel(context.Background())
	db.watch.cancel = cancel
	db.watch.answered.Store(time.Now().UnixNano())
	db.watch.running.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		known := map[string]uint64{}
		clock := time.Now()
		for {
			if err := db.look(ctx, known, changed); err == nil {
				db.watch.answered.Store(time.Now().UnixNano())
			}
			if time.Since(clock) > time.Minute {
				clock = time.Now()
				_ = db.measureClock(ctx) // the old offset serves as well
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

func (db *DB) look(ctx context.Context, known map[string]uint64, changed func(context.Context, map[string]uint64) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	now, err := db.Counters(ctx)
	if err != nil {
		return err
	}
	moved := false
	for name, value := range now {
		moved = moved || known[name] != value
	}
	if !moved {
		return nil
	}
	if err := changed(ctx, now); err != nil {
		return err
	}
	maps.Copy(known, now)
	return nil
}

// Counters returns the value of every counter.
func (db *DB) Counters(ctx context.Context) (map[string]uint64, error) {
	counters := map[string]uint64{}
	err := db.Query(ctx, "SELECT name, value FROM counters", nil, func(rows pgx.Rows) error {
		var name string
		var value uint64
		err := rows.Scan(&name, &value)
		counters[name] = value
		return err
	})
	return counters, err
}

func (w *watch) end() {
	if w.cancel != nil {
		w.cancel()
	}
	w.running.Wait()
}
