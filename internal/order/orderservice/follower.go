package orderservice

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/order"
)

// follower brings orders up to what became of their reservations: at once when one
// expires, and, RepairAfter behind, for every closing in the inventory's ledger, in
// case the process died (or gave up) between the two commits of a step. How far it
// has come is stored, so it goes on there after a restart.
type follower struct {
	service *Service
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// followChunk is how many ledger entries are looked at in one go.
const followChunk = 2000

// Start begins to follow the inventory.
func (s *Service) Start(ctx context.Context) error {
	ctx, s.follower.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.follower.running.Go(func() { s.follower.run(ctx) })
	return nil
}

// Stop ends what Start began.
func (s *Service) Stop(context.Context) error {
	if s.follower.cancel != nil {
		s.follower.cancel()
	}
	s.follower.running.Wait()
	return nil
}

func (f *follower) run(ctx context.Context) {
	tick := time.NewTicker(f.service.cfg.FollowEvery)
	defer tick.Stop()
	failing := false // told once, not with every try
	for {
		err := f.service.Follow(ctx, f.service.cfg.Now().Add(-f.service.cfg.RepairAfter))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			f.service.cfg.Logger.Error("orders: the inventory cannot be followed; it is tried again until it works", "error", err)
		case err == nil && failing:
			f.service.cfg.Logger.Info("orders: the inventory is followed again")
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Follow completes the steps of orders whose reservations were closed until the given
// time.
func (s *Service) Follow(ctx context.Context, until time.Time) error {
	from, err := s.store.Followed(ctx)
	if err != nil {
		return fmt.Errorf("read how far the inventory was followed: %w", err)
	}
	for {
		closings, last, err := s.inventory.Closings(ctx, from, followChunk)
		if err != nil {
			return fmt.Errorf("read closings after %d: %w", from, err)
		}
		due := slices.IndexFunc(closings, func(c Closing) bool { return c.Time.After(until) })
		// Where the chunk is all due there may be another. Without any closings there is
		// none, however fast the ledger grows meanwhile.
		more := due < 0 && len(closings) > 0
		if due >= 0 {
			closings, last = closings[:due], from
			if due > 0 {
				last = closings[due-1].Seq
			}
		}
		if last == from {
			return nil
		}
		if err := s.complete(ctx, closings, last); err != nil || !more {
			return err
		}
		from = last
	}
}

// ReservationsExpired expires the orders of reservations that have just expired.
func (s *Service) ReservationsExpired(ctx context.Context, closings []Closing) {
	if err := s.complete(ctx, closings, 0); err != nil {
		s.cfg.Logger.Warn("orders: not expired at once; the follower will", "error", err)
	}
}

// complete takes the steps that closings call for, and notes the position if there is one.
func (s *Service) complete(ctx context.Context, closings []Closing, position uint64) error {
	var cmds []order.Command
	for _, c := range closings {
		cmd, err := s.completion(ctx, c)
		if err != nil {
			return err
		}
		if cmd != nil {
			cmds = append(cmds, cmd)
		}
	}
	if position > 0 {
		cmds = append(cmds, &order.FollowCommand{Position: position})
	}
	outcomes, err := s.store.Continue(ctx, cmds)
	if err != nil {
		return fmt.Errorf("complete steps: %w", err)
	}
	for i, out := range outcomes {
		// A step that is not open any more was overtaken by another: that is fine.
		if out.Err != nil && !fault.Is(out.Err, fault.IllegalTransition) && !fault.Is(out.Err, fault.PaymentConflict) {
			return fmt.Errorf("complete step %d: %w", i, out.Err)
		}
	}
	return nil
}

// completion returns the step that c's order has still to take, nil for none.
func (s *Service) completion(ctx context.Context, c Closing) (order.Command, error) {
	o, err := s.store.Order(ctx, c.OrderID)
	if fault.Is(err, fault.OrderNotFound) {
		return nil, nil //nolint:nilnil // the process died before the order was stored; its stock is free again
	}
	if err != nil {
		return nil, fmt.Errorf("read order: %w", err)
	}
	step := &order.StepCommand{ID: o.ID, ReservationID: c.ReservationID}
	switch c.State {
	case Sold:
		step.Action, step.PaymentReference = order.Pay, c.Reference
	case Released:
		step.Action = order.Cancel
	case HoldExpired:
		step.Action = order.Expire
	default:
		return nil, nil //nolint:nilnil // still held
	}
	if c.State != Sold && o.ReservationID != c.ReservationID {
		return nil, nil //nolint:nilnil // the order has another reservation by now
	}
	if _, open := o.Status.Next(step.Action); !open {
		return nil, nil //nolint:nilnil // done
	}
	return step, nil
}
