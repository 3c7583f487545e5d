package inventory

import (
	"fmt"
	"slices"
	"time"

	"github.com/penstockhq/penstock/internal/fault"
)

// Book decides the commands of one batch. Its zero value with Rows and Now set is
// ready for use; it is not for concurrent use.
type Book struct {
	Rows   Rows
	Now    time.Time
	Expect int // how many commands will come, about

	// What changed, for the store to write.
	Entries   []Entry
	Crossings []Crossing
	Changed   []*Level       // in the order in which they first changed
	Saved     []*Reservation // in the order in which they first changed
	Memories  map[string]*Remembered

	levels     map[Place]*levelRow
	touched    map[string]*row   // every reservation that was read or made
	activeKeys map[string]string // key → reservation, "" for none
}

// Do decides one command. An error means that the rows could not be read, and that
// the batch cannot go on; a refusal is in the Outcome.
func (b *Book) Do(cmd Command) (Outcome, error) {
	b.init()
	switch c := cmd.(type) {
	case *ReserveCommand:
		return b.reserve(c)
	case *CommitCommand:
		return b.commit(c)
	case *ReleaseCommand:
		return b.release(c)
	case *ExtendCommand:
		return b.extend(c)
	case *ExpireCommand:
		return b.expire(c)
	case *ReceiveCommand:
		return b.book(Entry{
			Kind: Received, Place: c.Place, Quantity: c.Quantity, Reference: c.Reference,
		}, c.Memory)
	case *AdjustCommand:
		return b.book(Entry{
			Kind: Adjusted, Place: c.Place, Quantity: c.Delta, Policy: c.Policy, Reference: c.Reference, Reason: c.Reason,
		}, c.Memory)
	default:
		return Outcome{}, fmt.Errorf("unknown inventory command %T", cmd)
	}
}

func (b *Book) init() {
	if b.levels != nil {
		return
	}
	b.levels = map[Place]*levelRow{}
	b.touched = make(map[string]*row, b.Expect)
	b.Memories = map[string]*Remembered{}
	b.activeKeys = make(map[string]string, b.Expect)
	b.Saved = make([]*Reservation, 0, b.Expect)
	b.Entries = make([]Entry, 0, b.Expect)
}

func (b *Book) reserve(c *ReserveCommand) (Outcome, error) {
	if out, done, err := b.replayReserve(c); done || err != nil {
		return out, err
	}
	lines := merged(c.Lines)
	if short, err := b.shortages(lines); err != nil || len(short) > 0 {
		return Outcome{Err: insufficient(short)}, err
	}
	r := &row{Reservation: Reservation{
		ID: c.ID, Lines: lines, Status: Active, OrderID: c.OrderID, Reference: c.Reference, Key: c.Key,
		CreatedAt: b.Now, ExpiresAt: b.Now.Add(c.TTL), Version: 1,
	}}
	for _, l := range lines {
		if err := b.enter(r, l, EntryReserved, l.Quantity, c.Reference); err != nil {
			return Outcome{}, err
		}
	}
	b.touched[r.ID] = r
	b.save(r)
	if r.Key != "" {
		b.activeKeys[r.Key] = r.ID
	}
	if c.Memory.Key != "" {
		b.Memories[c.Memory.Key] = &Remembered{Fingerprint: c.Memory.Fingerprint, ReservationID: r.ID}
	}
	return Outcome{Reservation: r.Reservation}, nil
}

// replayReserve answers a reserve command that was carried out before.
func (b *Book) replayReserve(c *ReserveCommand) (out Outcome, done bool, err error) {
	mem, err := b.remembered(c.Memory)
	if err != nil {
		return Outcome{}, false, err
	}
	if mem != nil {
		if mem.Fingerprint != c.Memory.Fingerprint || mem.ReservationID == "" {
			return Outcome{Err: KeyReused(c.Memory.Key)}, true, nil
		}
		r, err := b.reservation(mem.ReservationID)
		if err != nil || r == nil {
			return Outcome{}, false, errMissing(mem.ReservationID, err)
		}
		return Outcome{Reservation: r.Reservation, Replayed: true}, true, nil
	}
	if c.Key == "" {
		return Outcome{}, false, nil
	}
	id, known := b.activeKeys[c.Key]
	if !known {
		if id, err = b.Rows.ActiveByKey(c.Key); err != nil {
			return Outcome{}, false, fmt.Errorf("look up reservation key: %w", err)
		}
	}
	if id == "" {
		return Outcome{}, false, nil
	}
	r, err := b.reservation(id)
	if err != nil || r == nil {
		return Outcome{}, false, errMissing(id, err)
	}
	if err := b.expireIfDue(r); err != nil {
		return Outcome{}, false, err
	}
	if r.Status != Active {
		return Outcome{}, false, nil
	}
	return Outcome{Reservation: r.Reservation, Replayed: true}, true, nil
}

// shortages returns the lines that cannot be held.
func (b *Book) shortages(lines []Line) ([]fault.Line, error) {
	var short []fault.Line
	for _, l := range lines {
		if l.Policy != Reserve {
			continue
		}
		level, err := b.level(l.Place)
		if err != nil {
			return nil, err
		}
		if level.Available() < l.Quantity {
			short = append(short, fault.Line{
				SKU: l.SKU, Location: l.Location, Requested: l.Quantity, Available: max(level.Available(), 0),
			})
		}
	}
	return short, nil
}

func insufficient(short []fault.Line) error {
	if len(short) == 0 {
		return nil
	}
	return InsufficientStock(short)
}

// InsufficientStock is the refusal that names the lines that cannot be held.
func InsufficientStock(short []fault.Line) *fault.Error {
	first := short[0]
	detail := fmt.Sprintf("%s has %d available at %s, %d were asked for", first.SKU, first.Available, first.Location, first.Requested)
	if len(short) > 1 {
		detail += fmt.Sprintf("; %d more lines fall short", len(short)-1)
	}
	return fault.New(fault.InsufficientStock, "%s", detail).WithLines(short)
}

// KeyReused is the refusal of a key that came before with another request.
func KeyReused(key string) *fault.Error {
	return fault.New(fault.KeyReused, "the Idempotency-Key %q was used for another request before", key)
}

func (b *Book) commit(c *CommitCommand) (Outcome, error) {
	r, out, err := b.forChange(c.ID, c.OrderID)
	if r == nil || err != nil {
		return out, err
	}
	want, err := commitQuantities(r, c.Lines)
	if err != nil {
		return Outcome{Err: err, Reservation: r.Reservation}, nil //nolint:nilerr // a refusal is an outcome
	}
	if r.Status == Committed && slices.Equal(want, committedQuantities(r)) {
		return Outcome{Reservation: r.Reservation, Replayed: true}, nil
	}
	if r.Status != Active {
		return Outcome{Err: closed(r, "committed"), Reservation: r.Reservation}, nil
	}
	r.Lines = slices.Clone(r.Lines)
	for i := range r.Lines {
		l := &r.Lines[i]
		l.Committed = want[i]
		if err := b.enter(r, *l, EntryCommitted, l.Committed, c.Reference); err != nil {
			return Outcome{}, err
		}
		if err := b.enter(r, *l, EntryReleased, l.Quantity-l.Committed, c.Reference); err != nil {
			return Outcome{}, err
		}
	}
	b.close(r, Committed)
	return Outcome{Reservation: r.Reservation}, nil
}

// commitQuantities returns for each line of r how much to sell.
func commitQuantities(r *row, lines []Line) ([]int64, error) {
	want := make([]int64, len(r.Lines))
	if len(lines) == 0 {
		for i, l := range r.Lines {
			want[i] = l.Quantity
		}
		return want, nil
	}
	for _, l := range merged(lines) {
		i := slices.IndexFunc(r.Lines, func(held Line) bool { return held.Place == l.Place })
		if i < 0 {
			return nil, fault.New(fault.InvalidRequest, "reservation %s holds no %s at %s", r.ID, l.SKU, l.Location)
		}
		if l.Quantity > r.Lines[i].Quantity {
			return nil, fault.New(fault.InvalidRequest, "reservation %s holds %d of %s at %s, not %d",
				r.ID, r.Lines[i].Quantity, l.SKU, l.Location, l.Quantity)
		}
		want[i] = l.Quantity
	}
	return want, nil
}

func committedQuantities(r *row) []int64 {
	got := make([]int64, len(r.Lines))
	for i, l := range r.Lines {
		got[i] = l.Committed
	}
	return got
}

func (b *Book) release(c *ReleaseCommand) (Outcome, error) {
	r, out, err := b.forChange(c.ID, c.OrderID)
	if r == nil || err != nil {
		return out, err
	}
	switch r.Status {
	case Active:
		if err := b.giveBack(r, EntryReleased, Released); err != nil {
			return Outcome{}, err
		}
		return Outcome{Reservation: r.Reservation}, nil
	case Released, Expired:
		return Outcome{Reservation: r.Reservation, Replayed: true}, nil
	default:
		return Outcome{Err: closed(r, "released"), Reservation: r.Reservation}, nil
	}
}

func (b *Book) extend(c *ExtendCommand) (Outcome, error) {
	r, out, err := b.forChange(c.ID, c.OrderID)
	if r == nil || err != nil {
		return out, err
	}
	if r.Status != Active {
		return Outcome{Err: closed(r, "extended"), Reservation: r.Reservation}, nil
	}
	if c.Until.After(b.Now.Add(MaxTTL)) {
		return Outcome{
			Err:         fault.New(fault.InvalidRequest, "expires_at may be at most 7 days from now"),
			Reservation: r.Reservation,
		}, nil
	}
	if !c.Until.After(r.ExpiresAt) {
		return Outcome{Reservation: r.Reservation, Replayed: true}, nil
	}
	r.ExpiresAt = c.Until.UTC()
	r.Version++
	b.save(r)
	return Outcome{Reservation: r.Reservation}, nil
}

func (b *Book) expire(c *ExpireCommand) (Outcome, error) {
	var out Outcome
	for _, id := range c.IDs {
		r, err := b.reservation(id)
		if err != nil {
			return Outcome{}, err
		}
		if r == nil || r.Status != Active {
			continue
		}
		if err := b.expireIfDue(r); err != nil {
			return Outcome{}, err
		}
		if r.Status == Expired {
			out.Expired = append(out.Expired, r.Reservation)
		}
	}
	return out, nil
}

// book changes what is on hand by e.Quantity.
func (b *Book) book(e Entry, m Memory) (Outcome, error) {
	mem, err := b.remembered(m)
	if err != nil {
		return Outcome{}, err
	}
	if mem != nil {
		if mem.Fingerprint != m.Fingerprint || mem.ReservationID != "" {
			return Outcome{Err: KeyReused(m.Key)}, nil
		}
		return Outcome{Level: mem.Level, Replayed: true}, nil
	}
	level, err := b.level(e.Place)
	if err != nil {
		return Outcome{}, err
	}
	if e.Quantity < 0 && e.Policy == Reserve && level.OnHand+e.Quantity < level.Reserved {
		return Outcome{Err: fault.New(fault.StockHeld,
			"%s at %s has %d on hand of which %d are reserved, so it cannot be adjusted by %d",
			e.Place.SKU, e.Place.Location, level.OnHand, level.Reserved, e.Quantity)}, nil
	}
	// An untracked SKU's units may be booked all the same; its sales do not count.
	if e.Policy == Untracked {
		e.Policy = Track
	}
	b.post(level, e)
	if m.Key != "" {
		b.Memories[m.Key] = &Remembered{Fingerprint: m.Fingerprint, Level: level.Level}
	}
	return Outcome{Level: level.Level}, nil
}

// forChange returns the reservation, expired if its time has passed. Where it does
// not exist or belongs to another r is nil and out has the refusal.
func (b *Book) forChange(id, orderID string) (r *row, out Outcome, err error) {
	r, err = b.reservation(id)
	if err != nil {
		return nil, Outcome{}, err
	}
	if r == nil {
		return nil, Outcome{Err: NotFound(id)}, nil
	}
	if r.OrderID != orderID {
		return nil, Outcome{Reservation: r.Reservation, Err: fault.New(fault.ReservationOwned,
			"reservation %s belongs to order %s; pay or cancel that", r.ID, r.OrderID)}, nil
	}
	return r, Outcome{}, b.expireIfDue(r)
}

// NotFound is the refusal for a reservation that does not exist.
func NotFound(id string) *fault.Error {
	return fault.New(fault.ReservationNotFound, "there is no reservation %s", short(id))
}

func closed(r *row, to string) error {
	return fault.New(fault.ReservationClosed, "reservation %s is %s since %s and cannot be %s",
		r.ID, r.Status, r.ClosedAt.Format(time.RFC3339), to)
}

func (b *Book) expireIfDue(r *row) error {
	if r.Status != Active || r.ExpiresAt.After(b.Now) {
		return nil
	}
	return b.giveBack(r, EntryExpired, Expired)
}

// giveBack frees everything that r holds.
func (b *Book) giveBack(r *row, kind EntryKind, status Status) error {
	for _, l := range r.Lines {
		if err := b.enter(r, l, kind, l.Quantity, r.Reference); err != nil {
			return err
		}
	}
	b.close(r, status)
	return nil
}

func (b *Book) close(r *row, status Status) {
	r.Status, r.ClosedAt = status, b.Now
	r.Version++
	b.save(r)
	if r.Key != "" {
		b.activeKeys[r.Key] = ""
	}
}

// enter writes a ledger entry for a line of r and changes its level. Untracked lines
// are in the ledger, too, but change nothing.
func (b *Book) enter(r *row, l Line, kind EntryKind, quantity int64, reference string) error {
	if quantity == 0 {
		return nil
	}
	e := Entry{
		Kind: kind, Place: l.Place, Policy: l.Policy, Quantity: quantity,
		ReservationID: r.ID, OrderID: r.OrderID, Reference: reference,
	}
	if l.Policy == Untracked {
		e.Time = b.Now
		b.Entries = append(b.Entries, e)
		return nil
	}
	level, err := b.level(l.Place)
	if err != nil {
		return err
	}
	b.post(level, e)
	return nil
}

// post applies e to its level and puts it into the ledger.
func (b *Book) post(level *levelRow, e Entry) {
	before := level.Available() > 0
	onHand, reserved := e.Effect()
	level.OnHand += onHand
	level.Reserved += reserved
	level.Version++
	if !level.changed {
		level.changed = true
		b.Changed = append(b.Changed, &level.Level)
	}
	e.Time = b.Now
	b.Entries = append(b.Entries, e)
	if after := level.Available() > 0; after != before {
		b.Crossings = append(b.Crossings, Crossing{Time: b.Now, Depleted: !after, Level: level.Level})
	}
}
