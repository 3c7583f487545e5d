package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstockhq/penstock/guard"
)

// Guard registers what g has seen.
func Guard(registry prometheus.Registerer, g *guard.Guard) {
	registry.MustRegister(guardCollector{g})
}

type guardCollector struct{ guard *guard.Guard }

//nolint:gochecknoglobals // descriptions of metrics, which nothing changes
var (
	guardWatched = prometheus.NewDesc("penstock_guard_watched_total", "Requests that were watched for goroutines they leave behind.", nil, nil)
	guardAlerts  = prometheus.NewDesc("penstock_guard_alerts_total", "Alerts of the guard.", nil, nil)
	guardLeaked  = prometheus.NewDesc("penstock_guard_leaked_goroutines_total", "Goroutines that watched requests left behind.", []string{"route"}, nil)
)

// Describe is part of prometheus.Collector.
func (guardCollector) Describe(to chan<- *prometheus.Desc) {
	to <- guardWatched
	to <- guardAlerts
	to <- guardLeaked
}

// Collect is part of prometheus.Collector.
func (c guardCollector) Collect(to chan<- prometheus.Metric) {
	s := c.guard.Stats()
	to <- prometheus.MustNewConstMetric(guardWatched, prometheus.CounterValue, float64(s.Watched))
	to <- prometheus.MustNewConstMetric(guardAlerts, prometheus.CounterValue, float64(s.Alerts))
	for route, n := range s.Leaked {
		to <- prometheus.MustNewConstMetric(guardLeaked, prometheus.CounterValue, float64(n), route)
	}
}
