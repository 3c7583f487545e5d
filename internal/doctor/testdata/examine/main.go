// Command examine is the examiner of the corpus' test: a process of its own, built without
// the race detector, as who examines has it. It prints the report as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/penstockhq/penstock/internal/doctor"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run examines url for a window and keeps the capture in a file, if one is named.
func run(url, window, keep string) error {
	d, err := time.ParseDuration(window)
	if err != nil {
		return err
	}
	capture, err := doctor.Take(context.Background(), doctor.Config{Access: doctor.Access{URL: url}, Window: d})
	if err != nil {
		return err
	}
	if keep != "" {
		if err := capture.Save(keep); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(doctor.Analyse(capture, ""))
}
