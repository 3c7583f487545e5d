package watch

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newWatcher(t *testing.T) *Watcher {
	t.Helper()
	w, err := New(Config{File: filepath.Join(t.TempDir(), "watch.json"), Every: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

var monday = time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)

// teach lets weeks pass at a program with a busy lunchtime, and returns the time after.
func teach(t *testing.T, w *Watcher, f *follower, weeks int, seed uint64) time.Time {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	at := monday
	for range weeks * 7 * 24 * 60 {
		if alerts := w.Take("shop", at, usual(rnd, at), nil, f); len(alerts) > 0 {
			t.Fatalf("seed %d: %+v at a usual time", seed, alerts[0])
		}
		at = at.Add(time.Minute)
	}
	return at
}

func usual(rnd *rand.Rand, at time.Time) doctor.Light {
	g := 100.0
	if at.Hour() == 12 {
		g = 130
	}
	return doctor.Light{Goroutines: g + 5*rnd.NormFloat64(), Heap: (80 + 4*rnd.NormFloat64()) * (1 << 20), GCShare: 0.02, Latency: 0.001 + 0.0005*rnd.Float64()}
}

func TestWatch_TellsWhatLeavesTheNormalOfItsHourOnce(t *testing.T) {
	t.Parallel()
	w, f := newWatcher(t), &follower{outside: map[string]int{}}
	at := teach(t, w, f, 2, 7)
	leak := doctor.Light{Goroutines: 400, Heap: 80 << 20, GCShare: 0.02, Latency: 0.001}
	var alerts []Alert
	for range 30 {
		alerts = append(alerts, w.Take("shop", at, leak, nil, f)...)
		at = at.Add(time.Minute)
	}
	if len(alerts) != 1 || alerts[0].Metric != Goroutines || alerts[0].Value != 400 || alerts[0].Band.High > 200 {
		t.Fatalf("%+v", alerts)
	}
	// Lunchtime is another hour.
	noon, night := w.state.Targets["shop"].Band(Goroutines, monday.Add(12*time.Hour)), w.state.Targets["shop"].Band(Goroutines, monday)
	if noon.Median < 125 || noon.Median > 135 || night.Median < 95 || night.Median > 105 {
		t.Errorf("noon %+v, night %+v", noon, night)
	}
}

func TestWatch_AnOutageDoesNotBecomeNormalWhatLastsDoes(t *testing.T) {
	t.Parallel()
	w, f := newWatcher(t), &follower{outside: map[string]int{}}
	at := teach(t, w, f, 1, 8)
	before := w.state.Targets["shop"].Band(Heap, at)
	grown := doctor.Light{Goroutines: 100, Heap: 300 << 20, GCShare: 0.02, Latency: 0.001}
	for range 50 { // minutes
		w.Take("shop", at, grown, nil, f)
		at = at.Add(time.Minute)
	}
	if after := w.state.Targets["shop"].Band(Heap, at); after.High > before.High*1.2 {
		t.Fatalf("an outage of 50 minutes moved the band from %+v to %+v", before, after)
	}
	for range 8 * 24 * 60 {
		w.Take("shop", at, grown, nil, f)
		at = at.Add(time.Minute)
	}
	if later := w.state.Targets["shop"].Band(Heap, at); later.Outside(300<<20) != 0 {
		t.Fatalf("what has lasted for a week is not normal: %+v", later)
	}
}

func TestWatch_SaysNothingBeforeItHasLearnt(t *testing.T) {
	t.Parallel()
	w, f := newWatcher(t), &follower{outside: map[string]int{}}
	for i := range 30 {
		if alerts := w.Take("shop", monday.Add(time.Duration(i)*time.Minute), doctor.Light{Goroutines: float64(i * 1000)}, nil, f); len(alerts) > 0 {
			t.Fatalf("%+v", alerts)
		}
	}
}

func TestWatch_NoAnswerIsToldAfterThreeTimes(t *testing.T) {
	t.Parallel()
	w, f := newWatcher(t), &follower{outside: map[string]int{}}
	told := 0
	for range 10 {
		told += len(w.Take("shop", monday, doctor.Light{}, errors.New("refused"), f))
	}
	if told != 1 || w.Now()["shop"].Up {
		t.Fatalf("told %d times, up %t", told, w.Now()["shop"].Up)
	}
}

func TestWatch_WhatWasLearntIsKeptAndExported(t *testing.T) {
	t.Parallel()
	w, f := newWatcher(t), &follower{outside: map[string]int{}}
	at := teach(t, w, f, 1, 9)
	if err := w.saveLocked(); err != nil {
		t.Fatal(err)
	}
	again, err := New(w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := w.state.Targets["shop"].Band(Heap, at), again.state.Targets["shop"].Band(Heap, at); a != b || !a.Known {
		t.Fatalf("%+v became %+v", a, b)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(w)
	if n, err := testutil.GatherAndCount(registry, "penstock_doctor_band"); err != nil || n != 3*len(Metrics()) {
		t.Errorf("%d bands, %v", n, err)
	}
	for _, text := range []string{"", "{}", `{"version":1,"targets":{"x":null}}`, `{"version":9,"targets":{}}`} {
		if err := os.WriteFile(w.cfg.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(w.cfg); err == nil || !strings.Contains(err.Error(), "learn anew") {
			t.Errorf("%q is accepted: %v", text, err)
		}
	}
}

func TestRun_WatchesARealProgram(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	s := httptest.NewServer(mux)
	defer s.Close()
	w, err := New(Config{File: filepath.Join(t.TempDir(), "watch.json"), Targets: []doctor.Access{{URL: s.URL}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for len(w.Now()) == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	now := w.Now()[s.URL]
	if !now.Up || now.Values[Goroutines] < 2 || now.Values[Heap] < 1<<20 {
		t.Errorf("%+v", now)
	}
}
