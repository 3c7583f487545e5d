package watch

import "github.com/prometheus/client_golang/prometheus"

var (
	upDesc    = prometheus.NewDesc("penstock_doctor_up", "Whether the target answered the last time.", []string{"target"}, nil)
	valueDesc = prometheus.NewDesc("penstock_doctor_value", "What was measured last.", []string{"target", "metric"}, nil)
	bandDesc  = prometheus.NewDesc("penstock_doctor_band", "What is normal at this hour of the week: its low and high bound and the median.", []string{"target", "metric", "bound"}, nil)
)

// Describe is part of prometheus.Collector.
func (*Watcher) Describe(to chan<- *prometheus.Desc) {
	to <- upDesc
	to <- valueDesc
	to <- bandDesc
}

// Collect is part of prometheus.Collector.
func (w *Watcher) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for target, now := range w.Now() {
		up := 0.0
		if now.Up {
			up = 1
		}
		gauge(upDesc, up, target)
		for metric, v := range now.Values {
			gauge(valueDesc, v, target, metric)
			if b := now.Bands[metric]; b.Known {
				gauge(bandDesc, b.Low, target, metric, "low")
				gauge(bandDesc, b.Median, target, metric, "median")
				gauge(bandDesc, b.High, target, metric, "high")
			}
		}
	}
}
