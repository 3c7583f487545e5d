// Command bench measures Penstock side by side with what it is compared to, and prints
// tables in Markdown. Every claim of speed in the documentation is a ratio within one
// run of one of these experiments.
//
// It is a module of its own, so that what it compares with is no dependency of Penstock.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"time"
)

// experiment is a table that can be printed.
type experiment struct {
	name, about string
	run         func(ctx context.Context, o options) error
}

// options of a run.
type options struct {
	quick bool          // a short run that only shows that it works
	took  time.Duration // how long to measure each row

	// Of hotsku: part of the names of the designs to compare, and numbers of clients; all where they are empty.
	only    string
	clients []int
}

// scale returns full, or quick in a quick run.
func (o options) scale(full, quick int) int {
	if o.quick {
		return quick
	}
	return full
}

var experiments = []experiment{
	{"reserve", "durable reservations on one hot SKU, in process: group commit against one commit each", reserveExperiment},
	{"http", "accepted orders over HTTP against an empty net/http handler", httpExperiment},
	{"batch", "orders through POST /v1/orders/batch", batchExperiment},
	{"stored", "order rate with many stored orders against an empty store", storedExperiment},
	{"history", "reservations while the old part of the ledger is removed", historyExperiment},
	{"memory", "resident memory and start-up with many SKUs and orders", memoryExperiment},
	{"overload", "latency of accepted orders at 0.8 and at 4 times capacity", overloadExperiment},
	{"hotsku", "Penstock, embedded and on PostgreSQL, against the usual ways to sell stock", hotskuExperiment},
	{"inflight", "one, two and three batches in flight", inFlightExperiment},
	{"keys", "look-up of fresh idempotency keys with and without the Bloom filter", keysExperiment},
	{"doctor", "reading and grouping a dump of 100,000 goroutines", doctorExperiment},
	{"examine", "what an examination costs small and large programs", examineExperiment},
	{"guard", "what watching requests for leaks costs", guardExperiment},
	{"maps", "the map of the stock table against others", mapsExperiment},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		child(os.Args[2:])
		return
	}
	quick := flag.Bool("quick", false, "short runs that only show that everything works")
	only := flag.String("only", "", "of hotsku's designs, those alone whose names contain this")
	var clients []int
	flag.Func("clients", "a number of hotsku's clients; may be repeated", func(value string) error {
		n, err := strconv.Atoi(value)
		clients = append(clients, n)
		return err
	})
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [-quick] [-only DESIGN] [-clients N] [experiment ...]; without names all of them")
		for _, e := range experiments {
			fmt.Fprintf(os.Stderr, "  %-9s %s\n", e.name, e.about)
		}
	}
	flag.Parse()
	o := options{quick: *quick, took: 5 * time.Second, only: *only, clients: clients}
	if *quick {
		o.took = 300 * time.Millisecond
	}
	for _, name := range flag.Args() {
		if !slices.ContainsFunc(experiments, func(e experiment) bool { return e.name == name }) {
			flag.Usage()
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Printf("%s, %d cores, GOMAXPROCS %d\n", runtime.Version(), runtime.NumCPU(), runtime.GOMAXPROCS(0))
	for _, e := range experiments {
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), e.name) {
			continue
		}
		fmt.Printf("\n### %s: %s\n\n", e.name, e.about)
		if err := e.run(ctx, o); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", e.name, err)
			os.Exit(1) //nolint:gocritic // nothing deferred matters now
		}
	}
}

// table prints a Markdown table.
func table(head []string, rows [][]string) {
	fmt.Printf("| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, r := range rows {
		fmt.Printf("| %s |\n", strings.Join(r, " | "))
	}
}

// count formats a number with thousands apart.
func count(n float64) string {
	s := fmt.Sprintf("%.0f", n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
