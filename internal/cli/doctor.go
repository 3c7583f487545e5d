package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/penstockhq/penstock/internal/doctor"
	"github.com/penstockhq/penstock/internal/doctor/render"
	"github.com/penstockhq/penstock/internal/doctor/watch"
)

type doctorCmd struct {
	Examine doctorExamineCmd `cmd:"" default:"withargs" help:"Examine a running Go program, or a saved examination: what leaks, grows, waits and wastes, and where."`
	Compare doctorCompareCmd `cmd:"" help:"Say which findings went, which stayed and which came between two examinations."`
	Watch   doctorWatchCmd   `cmd:"" help:"Learn what is normal for programs by the hour of the week, and say when they leave it, with the finding behind it."`
	Schema  doctorSchemaCmd  `cmd:"" help:"Print the JSON Schema of a report."`
}

// doctorAccess are the flags of how to take an examination.
type doctorAccess struct {
	Window   time.Duration `help:"For how long to watch." default:"30s"`
	CPU      time.Duration `help:"How much of it to take a CPU profile; --cpu=-1s for none. By default a third, at most 10s." name:"cpu" default:"0s"`
	Header   []string      `help:"Header to send, such as \"Authorization: Bearer …\". May be given several times." sep:"none" placeholder:"NAME: VALUE"`
	CA       string        `help:"File with certificates to trust, in PEM." type:"existingfile" name:"ca" placeholder:"FILE"`
	Insecure bool          `help:"Accept any certificate."`
	Timeout  time.Duration `help:"How long the target may take to answer a request." default:"15s"`
	Dump     bool          `help:"Take goroutines as text also where there are so many (beyond 20,000 in 30s) that printing them stops the target for a second or more."`
	Source   string        `help:"Folder with the target's module, to show lines of its code where it was built elsewhere." type:"existingdir" placeholder:"DIR"`
}

func (a *doctorAccess) config(url string) (doctor.Config, error) {
	c := doctor.Config{
		Access: doctor.Access{URL: url, Headers: http.Header{}, CAFile: a.CA, Insecure: a.Insecure, Timeout: a.Timeout},
		Window: a.Window, CPU: a.CPU, Dump: a.Dump, Source: a.Source,
	}
	for _, h := range a.Header {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return c, fmt.Errorf("--header %q is not of the form \"Name: value\"", h)
		}
		c.Headers.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return c, c.Validate()
}

type doctorExamineCmd struct {
	doctorAccess
	Target string        `arg:"" help:"URL of a program that serves net/http/pprof, such as http://127.0.0.1:6060 (http://name:password@host for basic authentication), or a file written by --save."`
	JSON   bool          `help:"Print the report as JSON; \"penstock doctor schema\" describes it." name:"json"`
	HTML   string        `help:"Write the report as one self-contained page." name:"html" type:"path" placeholder:"FILE"`
	Save   string        `help:"Keep all that was fetched as one file (a zip with the raw profiles)." type:"path" placeholder:"FILE"`
	Trace  time.Duration `help:"Take an execution trace of this length too, kept by --save." default:"0s"`
	FailOn []string      `help:"Kinds of findings to exit with 1 for: unresponsive, leak, heap, contention, cpu, gc; or none." default:"unresponsive,leak,heap,contention,cpu,gc" enum:"unresponsive,leak,heap,contention,cpu,gc,none"`
}

// Help is shown by --help.
func (*doctorExamineCmd) Help() string {
	return `Exits with 0 if nothing was found, 1 if something was, 2 if the target could not be examined.
The target needs no more than: import _ "net/http/pprof" and a listener for http.DefaultServeMux.
It is watched for --window, during which its goroutines are looked at, the heap is collected a few times and a CPU profile is taken.`
}

// Run examines and reports.
func (c *doctorExamineCmd) Run(ctx context.Context, out streams) error {
	if c.Trace > 0 && c.Save == "" {
		return couldNot("doctor", errors.New("--trace takes a trace for --save FILE, which is not given"))
	}
	capture, err := c.capture(ctx, out.err)
	if err != nil {
		return couldNot("doctor", err)
	}
	if c.Save != "" {
		if err := capture.Save(c.Save); err != nil {
			return couldNot("doctor", err)
		}
		fmt.Fprintf(out.err, "kept in %s\n", c.Save)
	}
	report := doctor.Analyse(capture, c.Source)
	if c.HTML != "" {
		if err := writePage(c.HTML, report); err != nil {
			return couldNot("doctor", err)
		}
		fmt.Fprintf(out.err, "the page is %s\n", c.HTML)
	}
	if c.JSON {
		enc := json.NewEncoder(out.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(report)
	} else {
		err = render.Text(out.out, report, isTerminal(out.out))
	}
	if err != nil {
		return couldNot("doctor", err)
	}
	kinds := make([]doctor.Kind, len(c.FailOn))
	for i, k := range c.FailOn {
		kinds[i] = doctor.Kind(k)
	}
	if len(report.Failing(kinds)) > 0 {
		return errReported
	}
	return nil
}

// couldNot fails a command with exit code 2.
func couldNot(command string, err error) error {
	return &exitError{code: exitUsage, err: fmt.Errorf("%s: %w", command, err)}
}

func (c *doctorExamineCmd) capture(ctx context.Context, progress io.Writer) (*doctor.Capture, error) {
	if isFile(c.Target) {
		return doctor.Load(c.Target)
	}
	cfg, err := c.config(c.Target)
	if err != nil {
		return nil, err
	}
	cfg.Trace = c.Trace
	cfg.Progress = watching(progress)
	capture, err := doctor.Take(ctx, cfg)
	if isTerminal(progress) {
		fmt.Fprint(progress, "\r\x1b[K")
	}
	return capture, err
}

// isFile tells a file from a URL.
func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// watching draws how far an examination is; where that is no terminal, one line says that
// it began.
func watching(w io.Writer) func(done, total time.Duration, what string) {
	if isTerminal(w) {
		return func(done, total time.Duration, what string) {
			fmt.Fprintf(w, "\r\x1b[K%s %s of %s", bar(done.Seconds()/total.Seconds()), done.Round(time.Second), what)
		}
	}
	begun := false
	return func(_, total time.Duration, what string) {
		if !begun && what == "watching" {
			begun = true
			fmt.Fprintf(w, "watching for %v\n", total)
		}
	}
}

func writePage(path string, report *doctor.Report) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return errors.Join(render.HTML(f, report), f.Close())
}

type doctorCompareCmd struct {
	doctorAccess
	Before string `arg:"" help:"File written by --save, or the URL of the program before the change."`
	After  string `arg:"" help:"File written by --save, or the URL of the program after the change, under the same load."`
	JSON   bool   `help:"Print the comparison as JSON." name:"json"`
}

// Run compares; two URLs are examined at the same time.
func (c *doctorCompareCmd) Run(ctx context.Context, out streams) error {
	names := []string{c.Before, c.After}
	reports := make([]*doctor.Report, len(names))
	errs := make([]error, len(names))
	var both sync.WaitGroup
	for i, name := range names {
		both.Go(func() {
			one := doctorExamineCmd{doctorAccess: c.doctorAccess, Target: name}
			var capture *doctor.Capture
			progress := io.Discard
			if i == slices.IndexFunc(names, func(n string) bool { return !isFile(n) }) {
				progress = out.err
			}
			if capture, errs[i] = one.capture(ctx, progress); errs[i] == nil {
				reports[i] = doctor.Analyse(capture, c.Source)
			}
		})
	}
	both.Wait()
	if err := errors.Join(errs...); err != nil {
		return couldNot("doctor compare", err)
	}
	cmp := doctor.Compare(reports[0], reports[1])
	var err error
	if c.JSON {
		err = json.NewEncoder(out.out).Encode(cmp)
	} else {
		err = render.Comparison(out.out, cmp, isTerminal(out.out))
	}
	if err != nil {
		return couldNot("doctor compare", err)
	}
	if cmp.Worse {
		return errReported
	}
	return nil
}

type doctorSchemaCmd struct{}

// Run prints the schema.
func (*doctorSchemaCmd) Run(out streams) error {
	_, err := out.out.Write(doctor.Schema())
	return err
}

type doctorWatchCmd struct {
	doctorAccess
	Targets []string      `arg:"" help:"URLs of the programs to watch."`
	File    string        `help:"File that keeps what was learnt." type:"path" default:"penstock-watch.json"`
	Every   time.Duration `help:"How often to take a sample." default:"30s"`
	Listen  string        `help:"Address for Prometheus: /metrics with what was measured and the bands that were learnt." placeholder:"HOST:PORT"`
	JSON    bool          `help:"Print alerts as lines of JSON." name:"json"`
}

// Help is shown by --help.
func (*doctorWatchCmd) Help() string {
	return `Learns the normal number of goroutines, heap, share of garbage collection and latency of each program by the hour of the week, says when one leaves it, and examines the program then.
For the first hour it only learns. It runs until it is interrupted.`
}

// Run watches.
func (c *doctorWatchCmd) Run(ctx context.Context, out streams) (err error) {
	cfg := watch.Config{File: c.File, Every: c.Every, Window: c.Window}
	for _, url := range c.Targets {
		one, err := c.config(url)
		if err != nil {
			return couldNot("doctor watch", err)
		}
		cfg.Targets = append(cfg.Targets, one.Access)
	}
	var mu sync.Mutex
	cfg.OnAlert = func(a watch.Alert) {
		mu.Lock()
		defer mu.Unlock()
		c.tell(out.out, a)
	}
	w, err := watch.New(cfg)
	if err != nil {
		return couldNot("doctor watch", err)
	}
	if c.Listen != "" {
		stop, err := serveMetrics(c.Listen, w)
		if err != nil {
			return couldNot("doctor watch", err)
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	fmt.Fprintf(out.err, "watching %d programs every %v; what is learnt is kept in %s\n", len(c.Targets), c.Every, c.File)
	return w.Run(ctx)
}

// tell prints an alert with the findings behind it.
func (c *doctorWatchCmd) tell(w io.Writer, a watch.Alert) {
	var findings []doctor.Finding
	if a.Report != nil {
		findings = a.Report.Findings
	}
	if c.JSON {
		_ = json.NewEncoder(w).Encode(struct { //nolint:errchkjson // to a terminal or a pipe: there is nobody to tell
			watch.Alert
			Findings []doctor.Finding `json:"findings"`
		}{a, findings})
		return
	}
	at := a.At.Format(time.RFC3339)
	if a.Metric == "" {
		fmt.Fprintf(w, "%s %s does not answer: %s\n", at, a.Target, a.Error)
		return
	}
	fmt.Fprintf(w, "%s %s: %s is %.4g, usual at this hour are %.4g to %.4g\n", at, a.Target, a.Metric, a.Value, a.Band.Low, a.Band.High)
	for _, f := range findings {
		fmt.Fprintf(w, "    %s: %s at %s %s:%d\n", f.Kind, f.Title, doctor.ShortName(f.Function), f.File, f.Line)
	}
}

// serveMetrics serves w's metrics until the returned function is called.
func serveMetrics(address string, w *watch.Watcher) (stop func() error, err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(w)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ends with Close
	return func() error {
		defer serving.Wait()
		return server.Close()
	}, nil
}
