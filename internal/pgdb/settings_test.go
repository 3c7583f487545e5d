package pgdb

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestPoolSize_IsThisProcessesShareOfWhatTheServerAllows(t *testing.T) {
	t.Parallel()
	wish := batchConnections + 2*max(2, runtime.GOMAXPROCS(0))
	for name, c := range map[string]struct {
		cfg    Config
		server settings
		want   int
	}{
		"plenty":              {Config{}, settings{maxConnections: 1000, reserved: 3}, wish},
		"a share":             {Config{Processes: 8}, settings{maxConnections: 100, reserved: 3}, min(wish, 12)},
		"too few":             {Config{Processes: 50}, settings{maxConnections: 100, reserved: 3}, minPoolSize},
		"said":                {Config{PoolSize: 40}, settings{maxConnections: 100, reserved: 3}, 40},
		"said, but too small": {Config{PoolSize: 1}, settings{maxConnections: 100, reserved: 3}, minPoolSize},
	} {
		if got := poolSize(c.cfg.withDefaults(), c.server); got != c.want {
			t.Errorf("%s: %d connections, want %d", name, got, c.want)
		}
	}
}

func TestIdleTime_IsLessThanTheServers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lifetime, server, want time.Duration
	}{
		"the server waits for ever": {30 * time.Minute, 0, 5 * time.Minute},
		"the server waits longer":   {30 * time.Minute, time.Hour, 5 * time.Minute},
		"the server waits less":     {30 * time.Minute, time.Minute, 45 * time.Second},
	} {
		if got := idleTime(Config{Lifetime: c.lifetime}, settings{idle: c.server}); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestSettings_WarningsWriteTheSumOut(t *testing.T) {
	t.Parallel()
	cfg := Config{Processes: 50}.withDefaults()
	server := settings{maxConnections: 100, reserved: 3, durable: true}
	if w := (settings{maxConnections: 1000, reserved: 3, durable: true}).warnings(cfg, 10); len(w) > 0 {
		t.Errorf("what fits is warned of: %q", w)
	}
	w := strings.Join(server.warnings(cfg, 10), "\n")
	if !strings.Contains(w, "50 processes × 10 connections = 500") || !strings.Contains(w, "100 − 3 reserved = 97") {
		t.Errorf("got %q", w)
	}
	server.durable = false
	if w := strings.Join(server.warnings(cfg, 1), "\n"); !strings.Contains(w, "fsync or synchronous_commit is off") {
		t.Errorf("got %q", w)
	}
}

func TestOpen_RefusesModesThatCannotCarryArrays(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"exec", "simple_protocol"} {
		_, err := Open(t.Context(), Config{URL: "postgres://127.0.0.1:1/x?default_query_exec_mode=" + mode})
		if err == nil || !strings.Contains(err.Error(), "cache_describe") {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

func TestRedacted_ShowsNoPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"postgres://u:secret@h/db", "host=h password=secret"} {
		if got := Redacted(url); strings.Contains(got, "secret") {
			t.Errorf("%s is shown as %s", url, got)
		}
	}
}
