package inventory

import "fmt"

// Rows is how a Book reads what a store has. A row is asked for at most once in a
// batch; after that the Book knows it better.
type Rows interface {
	// Level returns the level at p, with Version 0 where nothing was ever booked.
	Level(p Place) (Level, error)
	// Reservation returns the reservation, nil where there is none.
	Reservation(id string) (*Reservation, error)
	// ActiveByKey returns the ID of the active reservation with the key, "" where
	// there is none.
	ActiveByKey(key string) (string, error)
	// Remembered returns what was remembered under the key, nil for nothing.
	Remembered(key string) (*Remembered, error)
}

// Remembered is the stored answer to a command that had a Memory.
type Remembered struct {
	Fingerprint   [16]byte
	ReservationID string // of a reserve command
	Level         Level  // of a receive or adjust command
}

type levelRow struct {
	Level

	changed bool
}

// row is a reservation in the batch. Its Lines are shared with the outcomes that were
// given out, so they are replaced, never changed.
type row struct {
	Reservation

	saved bool
}

func (b *Book) level(p Place) (*levelRow, error) {
	if l := b.levels[p]; l != nil {
		return l, nil
	}
	l, err := b.Rows.Level(p)
	if err != nil {
		return nil, fmt.Errorf("read level of %s at %s: %w", p.SKU, p.Location, err)
	}
	l.Place = p
	made := &levelRow{Level: l}
	b.levels[p] = made
	return made, nil
}

func (b *Book) reservation(id string) (*row, error) {
	if r := b.touched[id]; r != nil {
		return r, nil
	}
	stored, err := b.Rows.Reservation(id)
	if err != nil {
		return nil, fmt.Errorf("read reservation %s: %w", id, err)
	}
	if stored == nil {
		return nil, nil //nolint:nilnil // none is an answer
	}
	r := &row{Reservation: *stored}
	b.touched[id] = r
	return r, nil
}

func (b *Book) remembered(m Memory) (*Remembered, error) {
	if m.Key == "" {
		return nil, nil //nolint:nilnil // nothing is an answer
	}
	if mem := b.Memories[m.Key]; mem != nil {
		return mem, nil
	}
	mem, err := b.Rows.Remembered(m.Key)
	if err != nil {
		return nil, fmt.Errorf("look up idempotency key: %w", err)
	}
	return mem, nil
}

func (b *Book) save(r *row) {
	if !r.saved {
		r.saved = true
		b.Saved = append(b.Saved, &r.Reservation)
	}
}

func errMissing(id string, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("reservation %s is indexed but not stored", id)
}
