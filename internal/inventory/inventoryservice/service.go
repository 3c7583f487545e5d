// Package inventoryservice has the use cases of stock: booking it, holding it, and
// letting holds expire. Rules are the domain's; this package validates, resolves the
// stock policy of each SKU, and owns the goroutine that expires reservations.
package inventoryservice

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/inventory"
)

// Store keeps stock, reservations and the ledger. Every answer is durable.
type Store interface {
	// Execute carries out new work; a full queue refuses it with fault.Overloaded.
	Execute(ctx context.Context, cmds []inventory.Command) ([]inventory.Outcome, error)
	// Continue carries out the later steps of accepted work; it waits where Execute refuses.
	Continue(ctx context.Context, cmds []inventory.Command) ([]inventory.Outcome, error)
	// Level returns the level at p; ok is false where nothing was ever booked.
	Level(ctx context.Context, p inventory.Place) (level inventory.Level, ok bool, err error)
	// Levels returns up to limit levels after the given place whose SKU has the prefix, in order.
	Levels(ctx context.Context, prefix string, after inventory.Place, limit int) ([]inventory.Level, error)
	// SoldOut is a quick look, in memory, whether there is nothing to be had at p. It may
	// be stale for 200 ms, and false where the store does not know.
	SoldOut(p inventory.Place) bool
	// Known is a quick look at whether an earlier try of cmd may have been carried out.
	Known(ctx context.Context, cmd *inventory.ReserveCommand) (bool, error)
	// Reservation returns the reservation or fault.ReservationNotFound.
	Reservation(ctx context.Context, id string) (inventory.Reservation, error)
	// Due returns up to limit active reservations whose time has passed at now.
	Due(ctx context.Context, now time.Time, limit int) ([]string, error)
	// Closings returns up to limit entries after the given position that ended an order's
	// reservation, oldest first, and the position up to which there are no others.
	Closings(ctx context.Context, after uint64, limit int) (entries []inventory.Entry, last uint64, err error)
	// Crossings returns up to limit crossings after the given position, oldest first.
	Crossings(ctx context.Context, after uint64, limit int) ([]inventory.Crossing, error)
}

// Policies knows the stock policy of each SKU.
type Policies interface {
	// Policy returns the SKU's policy; ok is false where there is no such SKU.
	Policy(sku string) (policy inventory.Policy, ok bool)
}

// Config of a Service.
type Config struct {
	// ExpireEvery is how often reservations are looked at that have run out of time.
	// Defaults to 250 ms, so that stock is free within a second.
	ExpireEvery time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Logger gets what goes wrong in the background. Defaults to none.
	Logger *slog.Logger
	// OnExpired is told of reservations that have just expired. Defaults to none.
	OnExpired func(ctx context.Context, expired []inventory.Reservation)
}

// Service is the inventory. Start it for reservations to expire by themselves.
type Service struct {
	cfg      Config
	store    Store
	policies Policies
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// New returns a Service on store.
func New(cfg Config, store Store, policies Policies) *Service {
	cfg.ExpireEvery = cmp.Or(cfg.ExpireEvery, 250*time.Millisecond)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnExpired == nil {
		cfg.OnExpired = func(context.Context, []inventory.Reservation) {}
	}
	return &Service{cfg: cfg, store: store, policies: policies, cancel: func() {}}
}

// Start begins to expire reservations.
func (s *Service) Start(ctx context.Context) error {
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.running.Go(func() { s.expireLoop(ctx) })
	return nil
}

// Stop ends what Start began.
func (s *Service) Stop(context.Context) error {
	s.cancel()
	s.running.Wait()
	return nil
}

// Reserve holds stock for each request on its own; cmds[i] is answered by the i-th
// outcome. It sets the policy of every line. Requests for what is sold out are
// refused from memory.
func (s *Service) Reserve(ctx context.Context, cmds []*inventory.ReserveCommand) ([]inventory.Outcome, error) {
	return s.reserve(ctx, cmds, s.store.Execute)
}

// ReserveAgain is Reserve for work that was accepted before: a full queue does not refuse it.
func (s *Service) ReserveAgain(ctx context.Context, cmds []*inventory.ReserveCommand) ([]inventory.Outcome, error) {
	return s.reserve(ctx, cmds, s.store.Continue)
}

// Prepare validates each request, sets the policies of its lines, and refuses what is
// known to be sold out; the i-th error answers cmds[i]. It is the first half of Reserve,
// for who commits reservations together with something else.
func (s *Service) Prepare(ctx context.Context, cmds []*inventory.ReserveCommand) []error {
	refusals := make([]error, len(cmds))
	for i, c := range cmds {
		refusals[i] = s.prepare(ctx, c)
	}
	return refusals
}

type executor = func(context.Context, []inventory.Command) ([]inventory.Outcome, error)

func (s *Service) reserve(ctx context.Context, cmds []*inventory.ReserveCommand, run executor) ([]inventory.Outcome, error) {
	outcomes := make([]inventory.Outcome, len(cmds))
	var work []inventory.Command
	var index []int
	for i, c := range cmds {
		if err := s.prepare(ctx, c); err != nil {
			outcomes[i].Err = err
			continue
		}
		work = append(work, c)
		index = append(index, i)
	}
	done, err := run(ctx, work)
	if err != nil {
		return nil, fmt.Errorf("reserve stock: %w", err)
	}
	for j, out := range done {
		outcomes[index[j]] = out
	}
	return outcomes, nil
}

// prepare validates c, sets the policies of its lines, and refuses what is sold out.
func (s *Service) prepare(ctx context.Context, c *inventory.ReserveCommand) error {
	for i := range c.Lines {
		c.Lines[i].Location = cmp.Or(c.Lines[i].Location, inventory.DefaultLocation)
	}
	if err := c.Validate(); err != nil {
		return err
	}
	if err := s.setPolicies(c.Lines); err != nil {
		return err
	}
	short := s.soldOut(c.Lines)
	if len(short) == 0 {
		return nil
	}
	// What is sold out may be held by an earlier try of this very command.
	known, err := s.store.Known(ctx, c)
	if err != nil {
		return fmt.Errorf("look up reservation key: %w", err)
	}
	if known {
		return nil
	}
	return inventory.InsufficientStock(short)
}

// soldOut returns the lines of which nothing at all is available, from memory. It
// looks only at lines whose policy is Reserve.
func (s *Service) soldOut(lines []inventory.Line) []fault.Line {
	var short []fault.Line
	for _, l := range lines {
		if l.Policy == inventory.Reserve && s.store.SoldOut(l.Place) {
			short = append(short, fault.Line{SKU: l.SKU, Location: l.Location, Requested: l.Quantity})
		}
	}
	return short
}

func (s *Service) setPolicies(lines []inventory.Line) error {
	var unknown []fault.Line
	for i := range lines {
		policy, ok := s.policies.Policy(lines[i].SKU)
		if !ok {
			unknown = append(unknown, fault.Line{SKU: lines[i].SKU, Reason: "not in the catalogue"})
		}
		lines[i].Policy = policy
	}
	if len(unknown) > 0 {
		return fault.New(fault.UnknownSKU, "%s is not in the catalogue", unknown[0].SKU).WithLines(unknown)
	}
	return nil
}

// Request is a reservation as a till or another channel asks for it.
type Request struct {
	Key       string // idempotency key
	Lines     []inventory.Line
	TTL       time.Duration // 0 for the default
	Reference string
}

// Create makes a reservation for a caller that is not an order.
func (s *Service) Create(ctx context.Context, req Request) (inventory.Outcome, error) {
	ttl := cmp.Or(req.TTL, inventory.DefaultTTL)
	cmd := &inventory.ReserveCommand{
		ID: id.New(id.Reservation, s.cfg.Now()), Lines: req.Lines, TTL: ttl, Reference: req.Reference,
		Memory: inventory.Memory{
			Key:         "reservation:" + req.Key,
			Fingerprint: fingerprint(req.Lines, ttl, req.Reference),
		},
	}
	return one(s.Reserve(ctx, []*inventory.ReserveCommand{cmd}))
}

// Commit sells what the reservation holds, wholly or exactly lines.
func (s *Service) Commit(ctx context.Context, cmd *inventory.CommitCommand) (inventory.Outcome, error) {
	for i := range cmd.Lines {
		cmd.Lines[i].Location = cmp.Or(cmd.Lines[i].Location, inventory.DefaultLocation)
	}
	return s.step(ctx, cmd)
}

// Release gives back what the reservation holds.
func (s *Service) Release(ctx context.Context, cmd *inventory.ReleaseCommand) (inventory.Outcome, error) {
	return s.step(ctx, cmd)
}

// Extend moves the reservation's end to a later time.
func (s *Service) Extend(ctx context.Context, cmd *inventory.ExtendCommand) (inventory.Outcome, error) {
	return s.step(ctx, cmd)
}

// step carries out a command on a reservation that was accepted before.
func (s *Service) step(ctx context.Context, cmd inventory.Command) (inventory.Outcome, error) {
	if err := cmd.Validate(); err != nil {
		return inventory.Outcome{}, err
	}
	return one(s.store.Continue(ctx, []inventory.Command{cmd}))
}

// Receive books units that arrived.
func (s *Service) Receive(ctx context.Context, key string, cmd *inventory.ReceiveCommand) (inventory.Outcome, error) {
	if _, err := s.locate(&cmd.Place); err != nil {
		return inventory.Outcome{}, err
	}
	cmd.Memory = inventory.Memory{
		Key:         "receipt:" + key,
		Fingerprint: fingerprint(cmd.Place, cmd.Quantity, cmd.Reference),
	}
	return s.bookStock(ctx, cmd)
}

// Adjust corrects the units on hand.
func (s *Service) Adjust(ctx context.Context, key string, cmd *inventory.AdjustCommand) (inventory.Outcome, error) {
	policy, err := s.locate(&cmd.Place)
	if err != nil {
		return inventory.Outcome{}, err
	}
	cmd.Policy = policy
	cmd.Memory = inventory.Memory{
		Key:         "adjustment:" + key,
		Fingerprint: fingerprint(cmd.Place, cmd.Delta, cmd.Reason, cmd.Reference),
	}
	return s.bookStock(ctx, cmd)
}

func (s *Service) bookStock(ctx context.Context, cmd inventory.Command) (inventory.Outcome, error) {
	if err := cmd.Validate(); err != nil {
		return inventory.Outcome{}, err
	}
	return one(s.store.Execute(ctx, []inventory.Command{cmd}))
}

// locate fills in the default location and finds the SKU's policy.
func (s *Service) locate(p *inventory.Place) (inventory.Policy, error) {
	p.Location = cmp.Or(p.Location, inventory.DefaultLocation)
	if err := inventory.CheckCode("sku", p.SKU); err != nil {
		return 0, err
	}
	policy, ok := s.policies.Policy(p.SKU)
	if !ok {
		return 0, fault.New(fault.SKUNotFound, "there is no SKU %s in the catalogue; create it with PUT /v1/skus/%s", p.SKU, p.SKU)
	}
	return policy, nil
}

// Level returns the level at p. A SKU that is in the catalogue but was never booked
// has a level of zeros.
func (s *Service) Level(ctx context.Context, p inventory.Place) (inventory.Level, error) {
	if _, err := s.locate(&p); err != nil {
		return inventory.Level{}, err
	}
	level, _, err := s.store.Level(ctx, p)
	if err != nil {
		return inventory.Level{}, fmt.Errorf("read stock: %w", err)
	}
	level.Place = p
	return level, nil
}

// Levels lists levels in order of SKU and location.
func (s *Service) Levels(ctx context.Context, prefix string, after inventory.Place, limit int) ([]inventory.Level, error) {
	levels, err := s.store.Levels(ctx, prefix, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list stock: %w", err)
	}
	return levels, nil
}

// Reservation returns the reservation. One whose time has passed shows as expired,
// even in the moment before that is written down.
func (s *Service) Reservation(ctx context.Context, id string) (inventory.Reservation, error) {
	r, err := s.store.Reservation(ctx, id)
	if err != nil {
		return inventory.Reservation{}, fmt.Errorf("read reservation: %w", err)
	}
	if r.Status == inventory.Active && !r.ExpiresAt.After(s.cfg.Now()) {
		r.Status, r.ClosedAt = inventory.Expired, r.ExpiresAt
	}
	return r, nil
}

// Closings returns up to limit ledger entries after the given position that ended an
// order's reservation, oldest first, and the position up to which there are no others.
func (s *Service) Closings(ctx context.Context, after uint64, limit int) ([]inventory.Entry, uint64, error) {
	return s.store.Closings(ctx, after, limit)
}

// expireChunk bounds how many reservations one command expires.
const expireChunk = 512

// expireLoop writes down what has expired, until ctx ends.
func (s *Service) expireLoop(ctx context.Context) {
	tick := time.NewTicker(s.cfg.ExpireEvery)
	defer tick.Stop()
	failing := false // told once, not with every try
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.ExpireDue(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			s.cfg.Logger.Error("inventory: reservations cannot be expired; it is tried again until it works", "error", err)
		case err == nil && failing:
			s.cfg.Logger.Info("inventory: reservations are expired again")
		}
		failing = err != nil
	}
}

// ExpireDue expires every reservation whose time has passed.
func (s *Service) ExpireDue(ctx context.Context) error {
	for {
		ids, err := s.store.Due(ctx, s.cfg.Now(), expireChunk)
		if err != nil {
			return fmt.Errorf("find expired reservations: %w", err)
		}
		if len(ids) == 0 {
			return nil
		}
		out, err := one(s.store.Continue(ctx, []inventory.Command{&inventory.ExpireCommand{IDs: ids}}))
		if err != nil {
			return fmt.Errorf("expire reservations: %w", err)
		}
		if len(out.Expired) > 0 {
			s.cfg.OnExpired(ctx, out.Expired)
		}
		if len(ids) < expireChunk {
			return nil
		}
	}
}

func one(outcomes []inventory.Outcome, err error) (inventory.Outcome, error) {
	if err != nil {
		return inventory.Outcome{}, err
	}
	if len(outcomes) != 1 {
		return inventory.Outcome{}, errors.New("the store gave no answer")
	}
	return outcomes[0], outcomes[0].Err
}

// fingerprint identifies what a request asks for, so that a key can be told from a reused one.
func fingerprint(parts ...any) (f [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%#v\x00", p)
	}
	copy(f[:], h.Sum(nil))
	return f
}
