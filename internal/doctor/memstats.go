package doctor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// MemStats is what is kept of runtime.MemStats, in bytes unless said otherwise.
type MemStats struct {
	HeapAlloc     float64 `json:"heap_alloc"`
	HeapSys       float64 `json:"heap_sys"`
	HeapInuse     float64 `json:"heap_inuse"`
	HeapIdle      float64 `json:"heap_idle"`
	HeapReleased  float64 `json:"heap_released"`
	HeapObjects   float64 `json:"heap_objects"` // count
	StackInuse    float64 `json:"stack_inuse"`
	TotalAlloc    float64 `json:"total_alloc"`
	Mallocs       float64 `json:"mallocs"` // count
	NextGC        float64 `json:"next_gc"`
	NumGC         float64 `json:"num_gc"` // count
	NumForcedGC   float64 `json:"num_forced_gc"`
	GCCPUFraction float64 `json:"gc_cpu_fraction"` // since the start of the program
	MaxPause      float64 `json:"max_pause_ns"`    // of the last 256 collections
	LastGC        float64 `json:"last_gc_ns"`      // Unix time by the target's clock, 0 before the first
	// Profiled is what the sampled profile estimates to have been live at the last
	// collection, Sampling the mean distance of its samples; 0 where it is turned off.
	Profiled float64 `json:"profiled"`
	Sampling float64 `json:"profile_sampling"`
}

// maxValue bounds what a target may claim, so that sums and slopes stay finite.
const maxValue = 1e19

// readMemStats reads a heap profile's text: its records, such as
// "3: 4128 [97: 133472] @ 0x45d1c6 …", whose stacks are not kept, and its end, which has
// lines such as "# HeapAlloc = 4233288".
func readMemStats(r io.Reader) (MemStats, error) {
	var s MemStats
	fields := map[string]*float64{
		"HeapAlloc": &s.HeapAlloc, "HeapSys": &s.HeapSys, "HeapInuse": &s.HeapInuse, "HeapIdle": &s.HeapIdle,
		"HeapReleased": &s.HeapReleased, "HeapObjects": &s.HeapObjects, "Stack": &s.StackInuse, "TotalAlloc": &s.TotalAlloc,
		"Mallocs": &s.Mallocs, "NextGC": &s.NextGC, "NumGC": &s.NumGC, "NumForcedGC": &s.NumForcedGC, "GCCPUFraction": &s.GCCPUFraction,
		"LastGC": &s.LastGC,
	}
	found := 0
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), 1<<20)
	for in.Scan() {
		rest, ok := strings.CutPrefix(in.Text(), "# ")
		if !ok {
			s.addRecord(in.Text())
			continue
		}
		name, value, ok := strings.Cut(rest, " = ")
		if !ok {
			continue
		}
		if name == "PauseNs" {
			s.MaxPause = largest(value)
			continue
		}
		if to := fields[name]; to != nil {
			value, _, _ = strings.Cut(value, " / ") // "# Stack = 1048576 / 1048576": in use / from the system
			if v, err := strconv.ParseFloat(value, 64); err == nil && v >= 0 && v <= maxValue {
				*to = v
				found++
			}
		}
	}
	if err := in.Err(); err != nil {
		return s, err
	}
	if found < 5 || s.HeapAlloc == 0 {
		return s, errors.New("the answer has no memory statistics")
	}
	return s, nil
}

// addRecord takes in a line of the profile. Of what is n bytes large on average, one in
// 1/(1-e^(-n/sampling)) is sampled (runtime/pprof, scaleHeapSample).
func (s *MemStats) addRecord(line string) {
	if _, rate, ok := strings.Cut(line, " @ heap/"); ok && s.Sampling == 0 {
		if v, err := strconv.ParseFloat(rate, 64); err == nil && v >= 2 && v <= maxValue {
			s.Sampling = v / 2 // the text says the double
		}
		return
	}
	objects, rest, ok := strings.Cut(line, ": ")
	if !ok || s.Sampling == 0 {
		return
	}
	size, _, _ := strings.Cut(rest, " ")
	n, err1 := strconv.ParseFloat(objects, 64)
	bytes, err2 := strconv.ParseFloat(size, 64)
	if err1 != nil || err2 != nil || !(n >= 1) || !(bytes >= 1 && bytes <= maxValue) {
		return
	}
	s.Profiled = min(maxValue, s.Profiled+bytes/-math.Expm1(-bytes/n/s.Sampling))
}

func largest(list string) float64 {
	most := 0.0
	for word := range strings.FieldsSeq(strings.Trim(list, "[]")) {
		if v, err := strconv.ParseFloat(word, 64); err == nil {
			most = max(most, v)
		}
	}
	return most
}

// Metrics is what the target's own /metrics says of the Go runtime, where it is served in
// the text format of Prometheus.
type Metrics struct {
	At          time.Duration      `json:"at_ns"`
	GoVersion   string             `json:"go_version,omitempty"`
	MutexWait   float64            `json:"mutex_wait_seconds"`     // all goroutines, since start
	GCCPU       float64            `json:"gc_cpu_seconds"`         // since start
	AllCPU      float64            `json:"all_cpu_seconds"`        // that was to be had, since start
	SchedDelays map[string]float64 `json:"sched_delays,omitempty"` // upper bound in s → count up to it
	HTTP        map[string]float64 `json:"http_latency,omitempty"` // likewise, of all requests
	HasRuntime  bool               `json:"has_runtime"`
}

func (c *capturer) takeMetrics(ctx context.Context) (Metrics, bool) {
	m, err := c.target.metrics(ctx)
	c.count(err)
	m.At = c.since()
	return m, err == nil && m.HasRuntime
}

// metrics reads /metrics.
func (t *target) metrics(ctx context.Context) (Metrics, error) {
	m := Metrics{SchedDelays: map[string]float64{}, HTTP: map[string]float64{}}
	body, err := t.open(ctx, "/metrics", maxText, 0)
	if err != nil {
		return m, err
	}
	in := bufio.NewScanner(body)
	in.Buffer(make([]byte, 64<<10), 1<<20)
	for in.Scan() {
		m.line(in.Text())
	}
	return m, errors.Join(in.Err(), body.Close())
}

// line takes in "go_info{version=\"go1.26\"} 1".
func (m *Metrics) line(text string) {
	if strings.HasPrefix(text, "#") {
		return
	}
	space := strings.LastIndexByte(text, ' ')
	if space < 0 {
		return
	}
	value, err := strconv.ParseFloat(text[space+1:], 64)
	if err != nil || !(math.Abs(value) <= maxValue) { // false for NaN too
		return
	}
	name, labels, _ := strings.Cut(text[:space], "{")
	switch name {
	case "go_goroutines":
		m.HasRuntime = true
	case "go_info":
		m.GoVersion = label(labels, "version")
	case "go_sync_mutex_wait_total_seconds_total":
		m.MutexWait = value
	case "go_cpu_classes_gc_total_cpu_seconds_total":
		m.GCCPU = value
	case "go_cpu_classes_total_cpu_seconds_total":
		m.AllCPU = value
	case "go_sched_latencies_seconds_bucket":
		addBucket(m.SchedDelays, label(labels, "le"), value)
	case "http_request_duration_seconds_bucket", "http_server_request_duration_seconds_bucket":
		addBucket(m.HTTP, label(labels, "le"), value)
	}
}

// addBucket sums histograms that differ in other labels; their number is bounded, as the
// target decides on it.
func addBucket(to map[string]float64, le string, value float64) {
	if _, known := to[le]; le != "" && (known || len(to) < 1000) {
		to[le] += value
	}
}

// label finds a label's value; escapes are left as they are.
func label(labels, name string) string {
	for part := range strings.SplitSeq(strings.TrimSuffix(labels, "}"), ",") {
		if v, ok := strings.CutPrefix(part, name+"=\""); ok {
			return strings.TrimSuffix(v, "\"")
		}
	}
	return ""
}

// quantile estimates the q-quantile of what a histogram of Prometheus' kind counted
// between two readings, by the upper bound of the bucket that holds it.
func quantile(before, after map[string]float64, q float64) (seconds float64, ok bool) {
	type bucket struct{ le, n float64 }
	var all []bucket
	for le, n := range after {
		bound := math.Inf(1)
		if le != "+Inf" {
			var err error
			if bound, err = strconv.ParseFloat(le, 64); err != nil {
				continue
			}
		}
		all = append(all, bucket{bound, n - before[le]})
	}
	total, best := 0.0, math.Inf(1)
	for _, b := range all {
		total = max(total, b.n)
	}
	if total < 10 {
		return 0, false
	}
	for _, b := range all {
		if b.n >= q*total {
			best = min(best, b.le)
		}
	}
	return best, !math.IsInf(best, 1)
}
