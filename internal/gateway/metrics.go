package gateway

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	duration *prometheus.HistogramVec
	refused  prometheus.Counter
	observer sync.Map // seriesKey → prometheus.Observer, to save the look-up by labels
}

type seriesKey struct {
	route, method string
	status        int
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                           "penstock_http_request_duration_seconds",
			Help:                           "Time from the first byte of a request's head to the end of its answer.",
			Buckets:                        prometheus.ExponentialBuckets(0.0005, 2, 16),
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}, []string{"route", "method", "status"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "penstock_http_refused_total",
			Help: "Requests refused with 429 because the server was full.",
		}),
	}
	if registry != nil {
		registry.MustRegister(m.duration, m.refused)
	}
	return m
}

func (m *metrics) observe(route, method string, status int, d time.Duration) {
	switch method {
	case "GET", "POST", "PUT":
	default:
		method = otherRoute
	}
	key := seriesKey{route, method, status}
	o, ok := m.observer.Load(key)
	if !ok {
		o = m.duration.WithLabelValues(route, method, strconv.Itoa(status))
		m.observer.Store(key, o)
	}
	o.(prometheus.Observer).Observe(d.Seconds()) //nolint:forcetypeassert // stored above
}
