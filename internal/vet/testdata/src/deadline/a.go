package deadline

import (
	"net/http"
	"time"
)

func bad(url string) {
	http.Get(url)               // want `http-body: http.Get has no time limit`
	http.DefaultClient.Get(url) // want `http-body: http.DefaultClient has no time limit`
}

func good(url string) {
	c := &http.Client{Timeout: time.Second}
	c.Get(url)
}
