package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Access says how to reach a target.
type Access struct {
	// URL of the target: "http://host:6060", or where its profiles are if that is not
	// /debug/pprof. A name and a password in it are sent as basic authentication.
	URL string
	// Headers are sent with every request. Defaults to none.
	Headers http.Header
	// CAFile holds certificates that are trusted besides the system's. Defaults to none.
	CAFile string
	// Insecure accepts any certificate. Defaults to false.
	Insecure bool
	// Timeout is how long the target may take to answer one request, on top of the time
	// that the request itself asks for. Defaults to 15 s.
	Timeout time.Duration
}

// target fetches from the examined program. It trusts nothing that comes back: sizes and
// times are bounded, and it follows no redirect to another host.
type target struct {
	base    *url.URL // what stands before /debug/pprof/
	name    string   // without password
	user    *url.Userinfo
	headers http.Header
	timeout time.Duration
	client  *http.Client
}

// answerError is an answer that is not 200.
type answerError struct {
	status int
	text   string // its beginning
}

func (e *answerError) Error() string {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("the target answers %d: give a name and a password in the URL (http://name:password@host) or a token with --header", e.status)
	case http.StatusNotFound:
		return "the target does not have it (404)"
	}
	return fmt.Sprintf("the target answers %d: %s", e.status, e.text)
}

func newTarget(a Access) (*target, error) {
	text := a.URL
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("%q is neither the URL of a program, such as http://127.0.0.1:6060, nor a file", a.URL)
	}
	t := &target{user: u.User, headers: a.Headers, timeout: a.Timeout}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	t.name = u.String()
	if i := strings.Index(u.Path, "/debug/pprof"); i >= 0 {
		u.Path = u.Path[:i]
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	t.base = u
	if t.timeout <= 0 {
		t.timeout = 15 * time.Second
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: a.Insecure} //nolint:gosec // on request only
	if a.CAFile != "" {
		pem, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificates: %w", err)
		}
		tlsConfig.RootCAs, err = x509.SystemCertPool()
		if err != nil {
			tlsConfig.RootCAs = x509.NewCertPool()
		}
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", a.CAFile)
		}
	}
	t.client = &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig,
			MaxIdleConnsPerHost: 2, MaxResponseHeaderBytes: 64 << 10,
			DisableCompression: true, // what unpacks is measured by who reads it
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Host != via[0].URL.Host || len(via) > 5 {
				return fmt.Errorf("the target redirects to %s, which was not asked for", req.URL.Host)
			}
			return nil
		},
	}
	return t, nil
}

func (t *target) close() { t.client.CloseIdleConnections() }

// open asks for a path below /debug/pprof/, or for one that begins with a slash. What is
// read of the body is cut off after limit bytes with errTooLarge, and after the timeout
// plus extra.
func (t *target) open(ctx context.Context, path string, limit int64, extra time.Duration) (io.ReadCloser, error) {
	u := *t.base
	path, u.RawQuery, _ = strings.Cut(path, "?")
	if strings.HasPrefix(path, "/") {
		u.Path += path
	} else {
		u.Path += "/debug/pprof/" + path
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout+extra)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	maps.Copy(req.Header, t.headers)
	if t.user != nil {
		password, _ := t.user.Password() // none is an empty one
		req.SetBasicAuth(t.user.Username(), password)
	}
	res, err := t.client.Do(req) //nolint:bodyclose // the caller closes it
	if err != nil {
		cancel()
		return nil, err
	}
	body := &boundedBody{body: res.Body, left: limit, cancel: cancel}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 200)) // a better message, if it can be read
		return nil, errors.Join(&answerError{res.StatusCode, strings.TrimSpace(string(text))}, body.Close())
	}
	return body, nil
}

// fetch reads all of what open opens.
func (t *target) fetch(ctx context.Context, path string, limit int64, extra time.Duration) ([]byte, error) {
	body, err := t.open(ctx, path, limit, extra)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(body)
	return data, errors.Join(err, body.Close())
}

// errTooLarge is what reading more than the limit ends with.
var errTooLarge = errors.New("the target sends more than is read of it")

type boundedBody struct {
	body   io.ReadCloser
	left   int64
	cancel context.CancelFunc
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.cancel()
	return b.body.Close()
}

// timedOut tells whether err is a target that was reached and did not answer in time.
func timedOut(err error) bool {
	var slow interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &slow) && slow.Timeout())
}
