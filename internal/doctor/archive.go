package doctor

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstockhq/penstock/internal/doctor/goroutine"
)

// A saved examination is a zip file: examination.json, the profiles as the target sent
// them (cpu.pb.gz, heap-after.pb.gz, …; unzip and open them with "go tool pprof") and the
// dumps of goroutines (goroutines-00.txt.gz, …).
const (
	metaName       = "examination.json"
	profileSuffix  = ".pb.gz"
	maxArchive     = 1 << 30
	maxEntries     = 200
	archiveVersion = 1
)

type meta struct {
	Version int `json:"version"`
	*Capture
}

// Save writes c to a file, whole or not at all.
func (c *Capture) Save(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".examination-*")
	if err != nil {
		return fmt.Errorf("save the examination: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("save the examination: %w", err), os.Remove(f.Name()))
		}
	}()
	err = errors.Join(c.write(f), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (c *Capture) write(w io.Writer) error {
	zw := zip.NewWriter(w)
	entry := func(name string, method uint16, data []byte) error {
		out, err := zw.CreateHeader(&zip.FileHeader{Name: name, Method: method, Modified: c.Started})
		if err == nil {
			_, err = out.Write(data)
		}
		return err
	}
	head, err := json.MarshalIndent(meta{archiveVersion, c}, "", "  ")
	if err != nil {
		return err
	}
	if err := entry(metaName, zip.Deflate, head); err != nil {
		return err
	}
	for i := range c.Dumps {
		if err := entry(fmt.Sprintf("goroutines-%02d.txt.gz", i), zip.Store, c.Dumps[i].raw); err != nil {
			return err
		}
	}
	for i := range c.Looks {
		if err := entry(fmt.Sprintf("goroutines-%02d.pb.gz", i), zip.Store, c.Looks[i].raw); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Profiles)) {
		file := name + profileSuffix
		if name == "trace" {
			file = "trace.out"
		}
		if err := entry(file, zip.Store, c.Profiles[name]); err != nil {
			return err
		}
	}
	return zw.Close()
}

// Load reads a saved examination.
func Load(path string) (*Capture, error) {
	c, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("%s is not a saved examination (doctor --save makes one): %w", path, err)
	}
	return c, nil
}

func load(path string) (_ *Capture, err error) {
	zr, err := zip.OpenReader(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, zr.Close()) }()
	if len(zr.File) > maxEntries {
		return nil, fmt.Errorf("it has %d files, more than %d", len(zr.File), maxEntries)
	}
	left := int64(maxArchive)
	read := func(name string) ([]byte, error) {
		f, err := zr.Open(name)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(f, left+1))
		if left -= int64(len(data)); left < 0 {
			err = errTooLarge
		}
		return data, errors.Join(err, f.Close())
	}
	head, err := read(metaName)
	if err != nil {
		return nil, err
	}
	m := meta{Capture: &Capture{Profiles: map[string][]byte{}}}
	if err := json.Unmarshal(head, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", metaName, err)
	}
	if m.Version != archiveVersion {
		return nil, fmt.Errorf("it is of version %d, this program reads version %d", m.Version, archiveVersion)
	}
	c := m.Capture
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", metaName, err)
	}
	for i := range c.Dumps {
		d := &c.Dumps[i]
		if d.raw, err = read(fmt.Sprintf("goroutines-%02d.txt.gz", i)); err != nil {
			return nil, err
		}
		if err := d.parse(); err != nil {
			return nil, fmt.Errorf("goroutines-%02d.txt.gz: %w", i, err)
		}
	}
	for i := range c.Looks {
		if c.Looks[i].raw, err = read(fmt.Sprintf("goroutines-%02d.pb.gz", i)); err != nil {
			return nil, err
		}
	}
	for _, f := range zr.File {
		if name, ok := strings.CutSuffix(f.Name, profileSuffix); ok && !strings.HasPrefix(name, "goroutines-") {
			if c.Profiles[name], err = read(f.Name); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// check refuses what no examination writes and what would confuse the analysis.
func (c *Capture) check() error {
	if c.Window <= 0 || c.Window > 48*time.Hour || len(c.Dumps) > maxEntries || len(c.Looks) > maxEntries || len(c.Heaps) > maxEntries || len(c.Counts) > 10*maxEntries {
		return errors.New("its window or the number of its parts cannot be")
	}
	inOrder := func(n int, at func(int) time.Duration) bool {
		for i := range n {
			if at(i) < 0 || (i > 0 && at(i) <= at(i-1)) {
				return false
			}
		}
		return true
	}
	if !inOrder(len(c.Dumps), func(i int) time.Duration { return c.Dumps[i].At }) ||
		!inOrder(len(c.Heaps), func(i int) time.Duration { return c.Heaps[i].At }) {
		return errors.New("its times are not in order")
	}
	return nil
}

func (d *Dump) parse() error {
	zr, err := gzip.NewReader(bytes.NewReader(d.raw))
	if err != nil {
		return err
	}
	parsed, err := goroutine.Read(io.LimitReader(zr, maxDump))
	if err != nil && !errors.Is(err, goroutine.ErrTruncated) {
		return err
	}
	d.Goroutines = parsed.Goroutines
	return nil
}
