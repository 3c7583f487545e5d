package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/penstockhq/penstock/api/gen/oas"
)

type importCmd struct {
	File   string `arg:"" help:"CSV with the header sku,title,amount,currency[,policy], or NDJSON with one SKU a line."`
	URL    string `help:"The server's API." name:"url" default:"http://127.0.0.1:8080"`
	Format string `help:"csv or ndjson; by default the file's ending tells." enum:",csv,ndjson" default:""`
}

// Run sends the file and prints what became of it.
func (c *importCmd) Run(ctx context.Context, s streams) error {
	media, err := c.mediaType()
	if err != nil {
		return err
	}
	f, err := os.Open(c.File)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	if info.IsDir() {
		return fmt.Errorf("import: %s is a folder", c.File)
	}
	p := &progress{body: f, total: info.Size(), start: time.Now()}
	stop := p.show(s.err)
	report, err := c.send(ctx, p, media)
	stop()
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	return printImport(s.out, c.File, report)
}

func (c *importCmd) mediaType() (string, error) {
	format := c.Format
	if format == "" {
		format = strings.TrimPrefix(strings.ToLower(filepath.Ext(c.File)), ".")
	}
	switch format {
	case "csv":
		return "text/csv", nil
	case "ndjson", "jsonl":
		return "application/x-ndjson", nil
	default:
		return "", fmt.Errorf("import: the ending of %s does not tell whether it is CSV or NDJSON; say so with --format", c.File)
	}
}

func (c *importCmd) send(ctx context.Context, body io.Reader, media string) (*oas.ImportReport, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(c.URL, "/")+"/v1/skus/import", body)
	if err != nil {
		return nil, fmt.Errorf("%s is not a URL such as http://127.0.0.1:8080: %w", c.URL, err)
	}
	req.Header.Set("Content-Type", media)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		var p oas.Problem
		if json.Unmarshal(raw, &p) == nil && p.Title != "" {
			return nil, fmt.Errorf("the server refused: %s: %s", p.Title, p.Detail.Value)
		}
		return nil, fmt.Errorf("the server answered %s", res.Status)
	}
	var report oas.ImportReport
	if err := json.Unmarshal(raw, &report); err != nil {
		return nil, fmt.Errorf("the answer is not a report; is %s a penstock server? %w", c.URL, err)
	}
	return &report, nil
}

func printImport(w io.Writer, file string, r *oas.ImportReport) error {
	for _, e := range r.Errors {
		if _, err := fmt.Fprintf(w, "%s:%d: %s%s\n", file, e.Line, prefixed(e.Sku.Value), e.Reason); err != nil {
			return err
		}
	}
	if more := r.Failed - int64(len(r.Errors)); more > 0 {
		fmt.Fprintf(w, "… and %d more lines failed\n", more)
	}
	fmt.Fprintf(w, "%d SKUs imported, %d lines failed\n", r.Imported, r.Failed)
	if r.Failed > 0 {
		return errReported
	}
	return nil
}

func prefixed(sku string) string {
	if sku == "" {
		return ""
	}
	return sku + ": "
}

// progress counts what is read from body and can draw a bar of it.
type progress struct {
	body  io.Reader
	total int64
	read  atomic.Int64
	start time.Time
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.body.Read(b)
	p.read.Add(int64(n))
	return n, err
}

// show draws a bar, if w is a terminal, until the returned function is called.
func (p *progress) show(w io.Writer) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprintf(w, "\r%s\n", p.bar())
				return
			case <-tick.C:
				fmt.Fprintf(w, "\r%s", p.bar())
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

func (p *progress) bar() string {
	read, share := p.read.Load(), 1.0
	if p.total > 0 {
		share = float64(read) / float64(p.total)
	}
	return fmt.Sprintf("%s  %.1f MB  %.1f MB/s", bar(share), float64(read)/1e6, float64(read)/1e6/max(time.Since(p.start).Seconds(), 0.001))
}

// bar draws a share of 1.
func bar(share float64) string {
	const width = 40
	full := min(int(share*width), width)
	return fmt.Sprintf("[%s%s] %3.0f %%", strings.Repeat("=", full), strings.Repeat(" ", width-full), 100*share)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
