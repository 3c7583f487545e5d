package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/penstockhq/penstock/internal/pebbledb"
)

type versionCmd struct{}

// Run prints what was built, from what the Go toolchain put into the binary.
func (versionCmd) Run(io streams) error {
	version, revision, dirty := "(devel)", "unknown revision", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = ", modified"
			}
		}
	}
	_, err := fmt.Fprintf(io.out, "penstock %s (%s%s), data format %d, %s %s/%s\n",
		version, revision, dirty, pebbledb.Format, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
