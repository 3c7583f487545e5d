package cost

import (
	"fmt"
	"net/http"
	"regexp"
	"time"
)

var good = regexp.MustCompile(`^a$`)

func handler(w http.ResponseWriter, r *http.Request) {
	regexp.MustCompile(`^b$`).MatchString(r.Host) // want `cost: this regular expression is compiled again each time`
	good.MatchString(r.Host)
}

func loops(rows [][]string, n int) (out []string, err error) {
	for _, row := range rows {
		_ = time.Now()
		for _, c := range row {
			_ = time.Now()                                // want `cost: the clock is read in a loop within a loop`
			out = append(out, fmt.Sprintf("%d-%s", n, c)) // want `cost: strings are formatted`
			if c == "" {
				return nil, fmt.Errorf("row %s is bad", fmt.Sprintf("%d", n))
			}
		}
	}
	return out, nil
}

func ticks(done chan struct{}) {
	t := time.NewTicker(time.Second) // want `cost: t ticks until it is collected`
	select {
	case <-t.C:
	case <-done:
	}
	u := time.NewTicker(time.Second)
	defer u.Stop()
	<-u.C
}
