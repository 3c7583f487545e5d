package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/penstockhq/penstock/guard"
	"github.com/penstockhq/penstock/internal/app"
	"github.com/penstockhq/penstock/internal/gateway"
	"github.com/penstockhq/penstock/internal/groupcommit"
	"github.com/penstockhq/penstock/internal/telemetry"
)

type serveCmd struct {
	Store         string `help:"Where the data is: pebble (a data folder of this process alone) or postgres (any number of processes)." enum:"pebble,postgres" default:"pebble"`
	Data          string `help:"Data folder; created if need be." default:"penstock-data" type:"path"`
	databaseFlags `embed:""`
	HTTP          string `help:"Address of the API." name:"http" default:"127.0.0.1:8080"`
	Ops           string `help:"Address of the operational port: /healthz, /readyz, /metrics, /debug/pprof, /verify." default:"127.0.0.1:6060"`

	InsecureNoAuth bool `help:"Allow addresses other than loopback, though whoever reaches them may do anything: there is no authentication."`

	KeepKeys       time.Duration `help:"How long idempotency keys are remembered." default:"24h"`
	KeepHistory    time.Duration `help:"How long events and the ledger are kept, such as 2160h; 0s for ever. What the ledger came to is kept." default:"0s"`
	MaxInFlight    int           `help:"Requests worked on at once; more get 429. 0 is 128 for each core." default:"0"`
	MaxWait        time.Duration `help:"Time that requests may wait before they are looked at; beyond it a share of new ones gets 429. -1s never." default:"8ms"`
	MaxConnections int           `help:"Open connections of the API; more wait to be accepted." default:"10000"`
	MaxBatch       int           `help:"Most requests in one commit." default:"4096"`
	MaxQueue       int           `help:"Requests that may wait for a commit; more get 503." default:"16384"`
	StallAfter     time.Duration `help:"Time that the disk may take to confirm a write before those who wait get 503." default:"10s"`
	ReadTimeout    time.Duration `help:"Time that a client may take to send a request." default:"10s"`
	DrainTimeout   time.Duration `help:"Time that a clean stop may take." default:"20s"`
	UnreadyFor     time.Duration `help:"Time to go on serving after SIGTERM with /readyz false, for load balancers to notice." default:"0s"`
	CacheMB        int64         `help:"Block cache of the store, in MiB." name:"cache-mb" default:"64"`
	MinFreeMB      int64         `help:"Free disk space in MiB below which new work is refused; -1 never." name:"min-free-mb" default:"256"`
	GuardSample    float64       `help:"Share of requests that are watched for goroutines they leave behind, 0 to 1." default:"0.01"`
	GuardTraces    string        `help:"Folder in which an alert of the guard leaves an execution trace of the last seconds." type:"existingdir" placeholder:"DIR"`
	LogLevel       slog.Level    `help:"debug, info, warn or error." default:"info"`
}

// Validate explains what is wrong with the flags.
func (c *serveCmd) Validate() error {
	for _, bound := range []struct {
		name      string
		value, at int64
	}{
		{"max-in-flight", int64(c.MaxInFlight), 0}, {"max-connections", int64(c.MaxConnections), 1},
		{"max-batch", int64(c.MaxBatch), 1}, {"max-queue", int64(c.MaxQueue), 1}, {"cache-mb", c.CacheMB, 1},
		{"stall-after", int64(c.StallAfter), int64(time.Millisecond)},
		{"read-timeout", int64(c.ReadTimeout), int64(time.Millisecond)},
		{"drain-timeout", int64(c.DrainTimeout), int64(time.Millisecond)},
		{"keep-keys", int64(c.KeepKeys), int64(time.Minute)},
	} {
		if bound.value < bound.at {
			return fmt.Errorf("--%s is too small", bound.name)
		}
	}
	if c.GuardSample < 0 || c.GuardSample > 1 {
		return fmt.Errorf("--guard-sample %v is no share: it may be 0 to 1", c.GuardSample)
	}
	if c.KeepHistory != 0 && c.KeepHistory < time.Hour {
		return fmt.Errorf("--keep-history %v: it may be 0s, for ever, or an hour and more", c.KeepHistory)
	}
	if err := c.validate(c.Store); err != nil {
		return err
	}
	for _, a := range []struct{ flag, address string }{{"http", c.HTTP}, {"ops", c.Ops}} {
		if err := checkAddress(a.flag, a.address, c.InsecureNoAuth); err != nil {
			return err
		}
	}
	return nil
}

// guardSample is the flag in the words of guard.Config, where 0 is the default.
func (c *serveCmd) guardSample() float64 {
	if c.GuardSample == 0 {
		return -1
	}
	return c.GuardSample
}

// checkAddress refuses addresses that others could reach.
func checkAddress(flag, address string, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--%s %q is not HOST:PORT: %w", flag, address, err)
	}
	if insecure || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("--%s %s can be reached from other machines, and there is no authentication yet: "+
		"use a loopback address such as 127.0.0.1:8080 behind a proxy that authenticates, or accept the risk with --insecure-no-auth",
		flag, address)
}

// Run serves until a signal comes or a store fails.
func (c *serveCmd) Run(ctx context.Context, io streams) (err error) {
	lines := telemetry.NewWriter(io.err)
	defer func() { err = errors.Join(err, lines.Close()) }()
	server := app.New(app.Config{
		Dir: c.Data, Postgres: c.config(c.Store), HTTP: c.HTTP, Ops: c.Ops, KeepKeys: c.KeepKeys, KeepHistory: c.KeepHistory, MaxConnections: c.MaxConnections,
		ReadTimeout: c.ReadTimeout, DrainTimeout: c.DrainTimeout, UnreadyFor: c.UnreadyFor,
		CacheBytes: c.CacheMB << 20, MinFreeBytes: c.minFree(),
		Batch:   groupcommit.Config{MaxBatch: c.MaxBatch, MaxQueue: c.MaxQueue, StallAfter: c.StallAfter},
		Gateway: gateway.Config{MaxInFlight: c.MaxInFlight, MaxWait: c.MaxWait},
		Guard:   guard.Config{Sample: c.guardSample(), TraceDir: c.GuardTraces},
		Logger:  telemetry.NewLogger(lines, c.LogLevel),
	})
	if err := server.Start(ctx); err != nil {
		return err
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-server.Failed():
		failure = fmt.Errorf("stopped because a write to %s failed, so what is on disk is uncertain; "+
			"see to the disk and start again: %w", c.Data, failure)
	}
	return errors.Join(failure, server.Stop(context.WithoutCancel(ctx)))
}

func (c *serveCmd) minFree() int64 {
	if c.MinFreeMB < 0 {
		return -1
	}
	return max(c.MinFreeMB<<20, 1)
}
