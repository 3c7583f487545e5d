// Command penstock is the whole platform; see internal/cli.
package main

import (
	"os"

	"github.com/penstockhq/penstock/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
