package doctor

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// Light is a sample that costs a target next to nothing.
type Light struct {
	Goroutines float64
	// Heap is the size at which the next collection begins, in bytes. It moves with what
	// is live and, unlike the size of the heap, not with the garbage of the moment.
	Heap float64
	// GCShare is the part of the CPU time that collecting has taken since the target's
	// start, 0 to 1.
	GCShare float64
	// Latency is how long the target took to answer for a page that is no work, in
	// seconds: what its scheduler and network add to every request.
	Latency float64
}

// Prober takes light samples of one target.
type Prober struct{ target *target }

// NewProber returns a Prober for a target. It does not connect yet.
func NewProber(a Access) (*Prober, error) {
	t, err := newTarget(a)
	if err != nil {
		return nil, err
	}
	return &Prober{t}, nil
}

// Name is the target's URL without its password.
func (p *Prober) Name() string { return p.target.name }

// Close gives the connections back.
func (p *Prober) Close() { p.target.close() }

// Sample takes one sample.
func (p *Prober) Sample(ctx context.Context) (Light, error) {
	begin := time.Now()
	page, err := p.target.fetch(ctx, "", maxPage, 0)
	if err != nil {
		return Light{}, err
	}
	l := Light{Latency: time.Since(begin).Seconds()}
	m := countOnIndex.FindSubmatch(page)
	if m == nil {
		return l, errors.New("the page of profiles does not tell the number of goroutines")
	}
	l.Goroutines, _ = strconv.ParseFloat(string(m[1])+string(m[2]), 64) // digits only
	body, err := p.target.open(ctx, "heap?debug=1", maxText, 0)
	if err != nil {
		return l, err
	}
	stats, err := readMemStats(body)
	if err = errors.Join(err, body.Close()); err != nil {
		return l, err
	}
	l.Heap, l.GCShare = stats.NextGC, stats.GCCPUFraction
	return l, nil
}
