package watch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/doctor"
)

// Config of a Watcher.
type Config struct {
	// Targets are what to watch.
	Targets []doctor.Access
	// File keeps what was learnt. It is made if it is not there.
	File string
	// Every is how often a sample is taken. Defaults to 30 s.
	Every time.Duration
	// Window is that of the examination that follows on an alert. Defaults to 30 s.
	Window time.Duration
	// ExamineEvery is the least time between two examinations of one target. Defaults to
	// 10 min.
	ExamineEvery time.Duration
	// OnAlert is called for each metric that leaves its band, by one goroutine for each
	// target. Defaults to nothing.
	OnAlert func(Alert)
}

// outsideFor is how many samples in a row must be outside of the band: one alone is a
// pause, a deployment or a backup.
const outsideFor = 3

// Alert is a metric that left its band, or a target that does not answer.
type Alert struct {
	Target string         `json:"target"`
	At     time.Time      `json:"at"`
	Metric string         `json:"metric"` // "" for a target that does not answer
	Value  float64        `json:"value"`
	Band   Band           `json:"band"`
	Error  string         `json:"error,omitempty"`
	Report *doctor.Report `json:"-"` // the examination behind it; nil if one was made lately
}

// Watcher watches targets.
type Watcher struct {
	cfg   Config
	mu    sync.Mutex // of all below
	state state
	now   map[string]Now // by target
}

// Now is how a target is at the moment.
type Now struct {
	Up     bool
	Values map[string]float64
	Bands  map[string]Band
}

type state struct {
	Version int                `json:"version"`
	Targets map[string]*Normal `json:"targets"`
}

const stateVersion = 1

// New returns a Watcher with what was learnt earlier.
func New(cfg Config) (*Watcher, error) {
	cfg.Every = cmp.Or(cfg.Every, 30*time.Second)
	cfg.Window = cmp.Or(cfg.Window, 30*time.Second)
	cfg.ExamineEvery = cmp.Or(cfg.ExamineEvery, 10*time.Minute)
	if cfg.OnAlert == nil {
		cfg.OnAlert = func(Alert) {}
	}
	if cfg.Every < time.Second {
		return nil, fmt.Errorf("a sample every %v is too often: 1s is the least", cfg.Every)
	}
	w := &Watcher{cfg: cfg, state: state{Version: stateVersion, Targets: map[string]*Normal{}}, now: map[string]Now{}}
	text, err := os.ReadFile(cfg.File)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return w, w.save() // so that one learns now if it cannot be written
	case err != nil:
		return nil, fmt.Errorf("read what was learnt: %w", err)
	}
	var learnt state
	if err := json.Unmarshal(text, &learnt); err != nil || learnt.Version != stateVersion || !learnt.sound() {
		return nil, fmt.Errorf("%s is not a file of this command (version %d): name another one, or move it away to learn anew", cfg.File, stateVersion)
	}
	w.state = learnt
	return w, nil
}

func (s state) sound() bool {
	for _, n := range s.Targets {
		if n == nil || n.Open == nil {
			return false
		}
		for _, m := range Metrics() {
			if len(n.Hours[m]) != hoursOfWeek {
				return false
			}
		}
	}
	return s.Targets != nil
}

// save writes the file, whole or not at all.
func (w *Watcher) save() error {
	text, err := json.Marshal(w.state)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(w.cfg.File), ".watch-*")
	if err != nil {
		return fmt.Errorf("save what was learnt: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), w.cfg.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("save what was learnt: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// Run watches until ctx ends, and saves what was learnt. The error is one of saving.
func (w *Watcher) Run(ctx context.Context) error {
	var all sync.WaitGroup
	failed := make(chan error, len(w.cfg.Targets)+1)
	for _, access := range w.cfg.Targets {
		prober, err := doctor.NewProber(access)
		if err != nil {
			return err
		}
		all.Go(func() {
			defer prober.Close()
			w.follow(ctx, prober, access)
		})
	}
	all.Go(func() {
		tick := time.NewTicker(blockTime)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := w.saveLocked(); err != nil {
					failed <- err
					return
				}
			}
		}
	})
	all.Wait()
	close(failed)
	return errors.Join(<-failed, w.saveLocked())
}

func (w *Watcher) saveLocked() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.save()
}

// follow watches one target.
func (w *Watcher) follow(ctx context.Context, prober *doctor.Prober, access doctor.Access) {
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	f := follower{outside: map[string]int{}}
	for {
		l, err := prober.Sample(ctx)
		if ctx.Err() != nil {
			return
		}
		for _, a := range w.Take(prober.Name(), time.Now(), l, err, &f) {
			if time.Since(f.examined) >= w.cfg.ExamineEvery {
				f.examined = time.Now()
				if c, err := doctor.Take(ctx, doctor.Config{Access: access, Window: w.cfg.Window}); err == nil {
					a.Report = doctor.Analyse(c, "")
				}
			}
			w.cfg.OnAlert(a)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follower is what is remembered of a target between two samples.
type follower struct {
	outside  map[string]int // samples in a row, by metric; "" for no answer
	examined time.Time
}

// Take takes in a sample, or the error instead of one, and returns what is to be alerted:
// each metric once when it has been outside for a while, and again only after it was back.
// What is outside is not learnt.
func (w *Watcher) Take(target string, at time.Time, l doctor.Light, err error, f *follower) []Alert {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.state.Targets[target]
	if n == nil {
		n = newNormal()
		w.state.Targets[target] = n
	}
	now := Now{Up: err == nil, Values: map[string]float64{}, Bands: map[string]Band{}}
	defer func() { w.now[target] = now }()
	if err != nil {
		f.outside[""]++
		if f.outside[""] == outsideFor {
			return []Alert{{Target: target, At: at, Error: err.Error()}}
		}
		return nil
	}
	f.outside[""] = 0
	var alerts []Alert
	inside := true
	for _, m := range Metrics() {
		v, band := valueOf(l, m), n.Band(m, at)
		now.Values[m], now.Bands[m] = v, band
		if band.Outside(v) <= 0 { // less than usual harms nobody
			f.outside[m] = 0
			continue
		}
		inside = false
		if f.outside[m]++; f.outside[m] == outsideFor {
			alerts = append(alerts, Alert{Target: target, At: at, Metric: m, Value: v, Band: band})
		}
	}
	// A new normal is learnt all the same, once it has lasted for an hour.
	if inside || f.outside[Goroutines] > lasting(w.cfg.Every) || f.outside[Heap] > lasting(w.cfg.Every) ||
		f.outside[GCShare] > lasting(w.cfg.Every) || f.outside[Latency] > lasting(w.cfg.Every) {
		n.Learn(at, l)
	}
	return alerts
}

func lasting(every time.Duration) int { return int(time.Hour / every) }

// Now returns how all targets are.
func (w *Watcher) Now() map[string]Now {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]Now{}
	maps.Copy(all, w.now)
	return all
}
