package guard

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/trace"
	"time"
)

// traceEvery is the least time between two traces: each is some megabytes.
const traceEvery = 10 * time.Minute

// recorder keeps the last seconds of the execution trace in memory.
type recorder struct {
	dir  string
	rec  *trace.FlightRecorder
	last time.Time
}

func startRecorder(dir string) (*recorder, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("guard: %s is no folder to leave traces in", dir)
	}
	r := &recorder{dir: dir, rec: trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: 5 * time.Second, MaxBytes: 16 << 20})}
	if err := r.rec.Start(); err != nil {
		return nil, fmt.Errorf("guard: start the flight recorder: %w", err)
	}
	return r, nil
}

func (r *recorder) close() { r.rec.Stop() }

// snapshot writes a file for "go tool trace" and returns its name, "" for none.
func (r *recorder) snapshot(logger *slog.Logger) string {
	if time.Since(r.last) < traceEvery {
		return ""
	}
	r.last = time.Now()
	name := filepath.Join(r.dir, "guard-"+r.last.UTC().Format("20060102-150405")+".trace")
	f, err := os.Create(name)
	if err == nil {
		_, err = r.rec.WriteTo(f)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		logger.Error("guard: no trace was left", "error", err)
		return ""
	}
	return name
}
