package orderservice

import (
	"context"
	"fmt"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/id"
	"github.com/penstockhq/penstock/internal/order"
)

// PlaceResult answers a PlaceRequest.
type PlaceResult struct {
	Order    order.Order
	Replayed bool  // the answer is that of an earlier request
	Err      error // the refusal
}

// Place places each order on its own; the i-th result answers the i-th request. The
// orders share the commits that make them durable, so many at once are cheap. It
// changes the requests: defaults are filled in.
func (s *Service) Place(ctx context.Context, reqs []PlaceRequest) []PlaceResult {
	p := placing{service: s, results: make([]PlaceResult, len(reqs)), open: make([]placement, 0, len(reqs))}
	defer p.leave()
	for i := range reqs {
		p.enter(ctx, i, &reqs[i])
	}
	switch {
	case len(p.open) == 0:
	case s.cfg.Placer != nil:
		p.runTogether(ctx)
	default:
		p.run(ctx)
	}
	return p.results
}

// placing is one call of Place on its way.
type placing struct {
	service *Service
	results []PlaceResult
	open    []placement     // those that are not answered yet
	claims  []order.KeyHash // keys that are in flight because of this call
}

// placement is one order on its way.
type placement struct {
	index       int
	order       order.Order
	fingerprint [16]byte
	hold        Hold
}

// enter validates a request and claims its key; what is known is answered from there.
func (p *placing) enter(ctx context.Context, i int, req *PlaceRequest) {
	replay, err := p.begin(ctx, i, req)
	if err != nil {
		p.results[i].Err = err
	} else if replay != nil {
		p.results[i] = PlaceResult{Order: *replay, Replayed: true}
	}
}

func (p *placing) begin(ctx context.Context, i int, req *PlaceRequest) (replay *order.Order, err error) {
	s := p.service
	if err := req.prepare(); err != nil {
		return nil, err
	}
	hash, fingerprint := hashKey(req.Key), req.fingerprint()
	if _, taken := s.inFlight.LoadOrStore(hash, struct{}{}); taken {
		return nil, fault.New(fault.RequestInFlight, "a request with this Idempotency-Key is being handled").WithRetryAfter(1e9)
	}
	p.claims = append(p.claims, hash)
	if s.cfg.Placer == nil {
		if o, err := s.earlier(ctx, hash, fingerprint); o != nil || err != nil {
			return o, err
		}
	}
	if err := s.store.Ready(); err != nil {
		return nil, err
	}
	total, err := s.price(req.Lines)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	pl := placement{index: i, fingerprint: fingerprint, order: order.Order{
		ID: id.New(id.Order, now), CustomerID: req.CustomerID, Lines: req.Lines, Total: total, KeyHash: hash,
	}}
	// The key and the body find the reservation of an earlier try that died half-way.
	both := hash
	for i, b := range fingerprint {
		both[i] ^= b
	}
	pl.hold = Hold{
		ReservationID: id.New(id.Reservation, now), OrderID: pl.order.ID, Key: string(both[:]),
		Lines: req.Lines, TTL: req.Hold,
	}
	p.open = append(p.open, pl)
	return nil, nil //nolint:nilnil // nothing to replay is an answer
}

// earlier returns the answer to an earlier request with the key, nil where there was none.
func (s *Service) earlier(ctx context.Context, hash order.KeyHash, fingerprint [16]byte) (*order.Order, error) {
	known, ok, err := s.store.Key(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("look up idempotency key: %w", err)
	}
	if !ok {
		return nil, nil //nolint:nilnil // nothing to replay is an answer
	}
	if known.Fingerprint != fingerprint {
		return nil, order.KeyReused()
	}
	o, err := s.Get(ctx, known.OrderID)
	if err != nil {
		return nil, err
	}
	o = o.AsPlaced()
	return &o, nil
}

// price fills in the unit prices of lines and returns their total.
func (s *Service) price(lines []order.Line) (order.Money, error) {
	var unknown []fault.Line
	currency := ""
	for i := range lines {
		price, ok := s.prices.Price(lines[i].SKU)
		switch {
		case !ok:
			unknown = append(unknown, fault.Line{SKU: lines[i].SKU, Reason: "not in the catalogue"})
			continue
		case currency == "":
			currency = price.Currency
		case currency != price.Currency:
			return order.Money{}, fault.New(fault.MixedCurrency, "%s is priced in %s, lines before it in %s",
				lines[i].SKU, price.Currency, currency)
		}
		lines[i].UnitPrice = price.Amount
	}
	if len(unknown) > 0 {
		return order.Money{}, fault.New(fault.UnknownSKU, "%q is not in the catalogue", unknown[0].SKU).WithLines(unknown)
	}
	total, err := order.Total(lines)
	return order.Money{Amount: total, Currency: currency}, err
}

// runTogether places what is open in one commit. That a key is new is found out there;
// only what is refused may be a repetition of what was accepted when there was stock.
func (p *placing) runTogether(ctx context.Context) {
	placements := make([]Placement, len(p.open))
	for i := range p.open {
		pl := &p.open[i]
		placements[i] = Placement{Hold: pl.hold, Create: &order.CreateCommand{Order: pl.order, Fingerprint: pl.fingerprint}}
	}
	placed, err := p.service.cfg.Placer.PlaceTogether(ctx, placements)
	if err != nil {
		p.refuse(fmt.Errorf("place order: %w", err))
		return
	}
	for i := range placed {
		pl, out := &p.open[i], &placed[i].Outcome
		result := PlaceResult{Order: out.Order, Replayed: out.Replayed, Err: out.Err}
		if refusal := placed[i].Err; refusal != nil {
			result.Err = refusal
			if o, err := p.service.earlier(ctx, pl.order.KeyHash, pl.fingerprint); err != nil {
				result.Err = err
			} else if o != nil {
				result = PlaceResult{Order: *o, Replayed: true}
			}
		}
		p.results[pl.index] = result
	}
}

// run reserves the stock of what is open and stores the orders that got theirs.
func (p *placing) run(ctx context.Context) {
	holds := make([]Hold, len(p.open))
	for i := range p.open {
		holds[i] = p.open[i].hold
	}
	held, err := p.service.inventory.Hold(ctx, holds)
	if err != nil {
		p.refuse(fmt.Errorf("hold stock: %w", err))
		return
	}
	ctx = context.WithoutCancel(ctx) // stock is held: finish, whether or not the caller waits
	creates := make([]order.Command, 0, len(p.open))
	kept := p.open[:0]
	for i, h := range held {
		pl := p.open[i]
		if h.Err != nil {
			p.results[pl.index].Err = h.Err
			continue
		}
		pl.hold.ReservationID = h.ReservationID
		o := &pl.order
		o.ID, o.ReservationID, o.HoldExpiresAt = h.OrderID, h.ReservationID, h.ExpiresAt
		creates = append(creates, &order.CreateCommand{Order: *o, Fingerprint: pl.fingerprint})
		kept = append(kept, pl)
	}
	p.open = kept
	outcomes, err := p.service.store.Continue(ctx, creates)
	if err != nil {
		p.giveUp(ctx, fmt.Errorf("store order: %w", err))
		return
	}
	for i, out := range outcomes {
		pl := p.open[i]
		p.results[pl.index] = PlaceResult{Order: out.Order, Replayed: out.Replayed, Err: out.Err}
		if out.Err != nil || out.Replayed && out.Order.ReservationID != pl.hold.ReservationID {
			// Another process stored an order under this key: it has its own stock.
			p.release(ctx, &pl)
		}
	}
}

// giveUp releases what is held for orders that could not be stored.
func (p *placing) giveUp(ctx context.Context, err error) {
	// After a failed write nobody knows whether the orders are stored; the stock then
	// stays held until its time is up, so that no order is left without.
	if !fault.Is(err, fault.Unavailable) {
		for _, pl := range p.open {
			p.release(ctx, &pl)
		}
	}
	p.refuse(err)
}

func (p *placing) release(ctx context.Context, pl *placement) {
	if _, err := p.service.inventory.Release(ctx, pl.order.ID, pl.hold.ReservationID); err != nil {
		p.service.cfg.Logger.Warn("orders: a reservation without an order was not released; it expires by itself",
			"reservation_id", pl.hold.ReservationID, "error", err)
	}
}

func (p *placing) refuse(err error) {
	for _, pl := range p.open {
		p.results[pl.index].Err = err
	}
}

// leave frees the claimed keys.
func (p *placing) leave() {
	for _, hash := range p.claims {
		p.service.inFlight.Delete(hash)
	}
}
