package doctor

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/google/pprof/profile"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds of a profile. A heap profile of a large program has some thousand samples; a
// hostile one could have as many as it has bytes, each a hundred times as large in memory.
const (
	maxProfile        = 24 << 20 // unpacked
	maxProfileRecords = 600_000
)

// unpack ungzips what is gzipped, up to limit bytes.
func unpack(raw []byte, limit int64) ([]byte, error) {
	if !bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
		if int64(len(raw)) > limit {
			return nil, errTooLarge
		}
		return raw, nil
	}
	zr, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(zr, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errTooLarge
	}
	return data, nil
}

// parseProfile reads a profile of pprof's format, gzipped or not.
func parseProfile(raw []byte) (*profile.Profile, error) {
	data, err := unpack(raw, maxProfile)
	if err != nil {
		return nil, fmt.Errorf("unpack the profile: %w", err)
	}
	records := 0
	for rest := data; len(rest) > 0; records++ {
		_, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, fmt.Errorf("this is no profile: %w", protowire.ParseError(n))
		}
		if records > maxProfileRecords {
			return nil, fmt.Errorf("the profile has more than %d records: %w", maxProfileRecords, errTooLarge)
		}
		rest = rest[n:]
	}
	p, err := profile.ParseUncompressed(data)
	if err != nil {
		return nil, fmt.Errorf("read the profile: %w", err)
	}
	if err := p.CheckValid(); err != nil {
		return nil, fmt.Errorf("read the profile: %w", err)
	}
	return p, nil
}

// column finds the values of a type ("inuse_space") in the samples of p.
func column(p *profile.Profile, name string) (int, error) {
	for i, t := range p.SampleType {
		if t.Type == name {
			return i, nil
		}
	}
	return 0, errors.New("the profile has no values of type " + name)
}

// sampleFrames lists the frames of a sample, innermost first, inlined calls as frames of
// their own.
func sampleFrames(s *profile.Sample, to []Frame) []Frame {
	to = to[:0]
	for _, l := range s.Location {
		for _, line := range l.Line {
			if line.Function != nil {
				to = append(to, Frame{Func: line.Function.Name, File: line.Function.Filename, Line: int(line.Line)})
			}
		}
	}
	return to
}
