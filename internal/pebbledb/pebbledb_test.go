package pebbledb_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/penstockhq/penstock/internal/fault"
	"github.com/penstockhq/penstock/internal/pebbledb"
	"github.com/penstockhq/penstock/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func open(t testing.TB, cfg pebbledb.Config) *pebbledb.DB {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir, cfg.FS, cfg.MinFreeBytes = "data", vfs.NewMem(), -1
	}
	db, err := pebbledb.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestOpen_RefusesAFolderThatAnotherProcessUses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, pebbledb.Config{Dir: dir})
	_, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "in use by another") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("got %v", err)
	}
}

func TestOpen_RefusesFoldersThatAreNotItsOwn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		file, content, want string
		readOnly            bool
	}{
		"newer":          {"PENSTOCK", `{"format":99}`, "format 99", false},
		"damaged":        {"PENSTOCK", `{`, "restore it from a backup", false},
		"somebody's":     {"thesis.doc", "words", "holds thesis.doc", false},
		"empty, to read": {"", "", "not a penstock data folder", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tc.file != "" {
				if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := pebbledb.Open(pebbledb.Config{Dir: dir, ReadOnly: tc.readOnly})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want something with %q", err, tc.want)
			}
		})
	}
}

func TestOpen_ReopensItsOwnFolderAlsoReadOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Set([]byte("k"), []byte("v"), pebble.Sync), db.Close()); err != nil {
		t.Fatal(err)
	}
	db = open(t, pebbledb.Config{Dir: dir, ReadOnly: true})
	if v, err := pebbledb.Lookup(db, []byte("k")); err != nil || string(v) != "v" {
		t.Fatalf("got %q, %v", v, err)
	}
}

// fullDisk is a file system that has as much room as the test says.
type fullDisk struct {
	vfs.FS

	free uint64
}

func (f *fullDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free}, nil
}

func TestCheckSpace_RefusesWorkOnANearlyFullDiskUntilThereIsRoom(t *testing.T) {
	t.Parallel()
	disk := &fullDisk{FS: vfs.NewMem(), free: 1 << 30}
	db := open(t, pebbledb.Config{Dir: "data", FS: disk, MinFreeBytes: 100 << 20})
	now := time.Unix(1_700_000_000, 0)
	check := func() error { now = now.Add(2 * time.Second); return db.CheckSpace(now) }
	if err := check(); err != nil {
		t.Fatal(err)
	}
	disk.free = 50 << 20
	if err := check(); !fault.Is(err, fault.DiskFull) {
		t.Fatalf("got %v", err)
	}
	disk.free = 200 << 20
	if err := check(); err != nil {
		t.Fatal(err)
	}
}

func TestLog_IsReadAsItWasWrittenFromAnyPosition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		db := open(t, pebbledb.Config{})
		log, err := pebbledb.OpenLog(db, []byte("xl"))
		if err != nil {
			rt.Fatal(err)
		}
		// A neighbour under a prefix that sorts right after must not be seen.
		if err := db.Set([]byte("xm"), []byte("other"), nil); err != nil {
			rt.Fatal(err)
		}
		var want []string
		removed := 0
		for range rapid.IntRange(0, 5).Draw(rt, "batches") {
			batch, entries := db.NewBatch(), [][]byte(nil)
			for range rapid.SampledFrom([]int{1, 3, 255, 256, 257, 600}).Draw(rt, "entries") {
				e := fmt.Sprintf("entry %d", len(want))
				want, entries = append(want, e), append(entries, []byte(e))
			}
			first, err := log.Append(batch, entries)
			if err != nil || first != uint64(len(want)-len(entries)+1) {
				rt.Fatalf("first is %d, %v", first, err)
			}
			if err := batch.Commit(nil); err != nil {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "remove") {
				batch, upTo := db.NewBatch(), rapid.IntRange(0, len(want)).Draw(rt, "up to")
				if err := errors.Join(log.Remove(db, batch, uint64(upTo)), batch.Commit(nil)); err != nil {
					rt.Fatal(err)
				}
				removed = max(removed, upTo)
			}
			if rapid.Bool().Draw(rt, "reopen") {
				if log, err = pebbledb.OpenLog(db, []byte("xl")); err != nil {
					rt.Fatal(err)
				}
			}
		}
		if got, err := log.Removed(db); err != nil || got != uint64(removed) {
			rt.Fatalf("up to %d is removed, want %d, %v", got, removed, err)
		}
		if log.Last() != uint64(len(want)) {
			rt.Fatalf("last is %d, want %d", log.Last(), len(want))
		}
		after := rapid.IntRange(0, len(want)+2).Draw(rt, "after")
		from := after
		if after == 0 {
			from = removed
		}
		var got []string
		err = log.Read(db, uint64(after), func(n uint64, entry []byte) (bool, error) {
			if n != uint64(from+len(got)+1) {
				rt.Fatalf("entry %d comes after %d", n, from+len(got))
			}
			got = append(got, string(entry))
			return true, nil
		})
		if after > 0 && after < removed {
			if !fault.Is(err, fault.EventsRemoved) || len(got) > 0 {
				rt.Fatalf("read %d entries after %d, up to %d being removed, %v", len(got), after, removed, err)
			}
			return
		}
		if err != nil || !slices.Equal(got, want[min(from, len(want)):]) {
			rt.Fatalf("read %d of %d entries after %d, %v", len(got), len(want), after, err)
		}
	})
}

func TestLog_AnEntryThatIsGoneWithoutHavingBeenRemovedIsTold(t *testing.T) {
	t.Parallel()
	db := open(t, pebbledb.Config{})
	log, err := pebbledb.OpenLog(db, []byte("xl"))
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		batch := db.NewBatch()
		_, err := log.Append(batch, [][]byte{[]byte("entry")})
		if err := errors.Join(err, batch.Commit(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Delete(binary.BigEndian.AppendUint64([]byte("xl"), 3), nil); err != nil {
		t.Fatal(err)
	}
	for after := range uint64(4) {
		err := log.Read(db, after, func(uint64, []byte) (bool, error) { return true, nil })
		if gap := after == 1 || after == 2; gap != errors.Is(err, pebbledb.ErrCorrupt) {
			t.Errorf("reading on after %d over entry 3, which is gone: %v", after, err)
		}
	}
}

func TestRemovesHistory_ProgramsThatDoNotKnowOfItRefuseTheFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	format := func() string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, "PENSTOCK"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(raw))
	}
	db, err := pebbledb.Open(pebbledb.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := format(); got != `{"format":1}` {
		t.Errorf("a new folder has %s", got)
	}
	for range 2 {
		if err := db.RemovesHistory(); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, pebbledb.Config{Dir: dir})
	if got := format(); got != `{"format":2}` {
		t.Errorf("where history was removed, the folder has %s", got)
	}
}

func hash(n int) (h pebbledb.KeyHash) {
	binary.BigEndian.PutUint64(h[:], uint64(n)*0x9e3779b97f4a7c15)
	return h
}

func put(t testing.TB, db *pebbledb.DB, table *pebbledb.KeyTable, n int, now time.Time) {
	t.Helper()
	var rows pebbledb.Rows
	table.Put(&rows, hash(n), now, []byte(fmt.Sprint(n)))
	batch := db.NewBatch()
	if err := errors.Join(rows.Into(batch), batch.Commit(nil)); err != nil {
		t.Fatal(err)
	}
}

func TestKeyTable_RemembersForAsLongAsItSaysAndForgetsAfterwards(t *testing.T) {
	t.Parallel()
	const keep = 24 * time.Hour
	db := open(t, pebbledb.Config{})
	table, err := pebbledb.OpenKeyTable(db.DB, []byte("xk"), keep)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1_700_000_000, 0)
	for n := range 100 {
		put(t, db, table, n, start.Add(time.Duration(n)*time.Hour))
	}
	now := start.Add(99 * time.Hour)
	batch := db.NewBatch()
	if dropped, err := table.DropExpired(batch, now); err != nil || dropped == 0 {
		t.Fatalf("dropped %d, %v", dropped, err)
	}
	if err := batch.Commit(nil); err != nil {
		t.Fatal(err)
	}
	check := func(table *pebbledb.KeyTable) {
		t.Helper()
		for n := range 110 {
			got, err := table.Get(db, hash(n))
			if err != nil {
				t.Fatal(err)
			}
			age := now.Sub(start.Add(time.Duration(n) * time.Hour))
			switch {
			case n < 100 && age <= keep && string(got) != fmt.Sprint(n):
				t.Errorf("key %d of age %v is forgotten", n, age)
			case (n >= 100 || age > keep+keep/4) && got != nil:
				t.Errorf("key %d of age %v is still there", n, age)
			}
		}
	}
	check(table)
	table.Close()
	again, err := pebbledb.OpenKeyTable(db.DB, []byte("xk"), keep)
	if err != nil {
		t.Fatal(err)
	}
	check(again) // perhaps with filters that are not filled yet
	if err := again.WaitFilled(); err != nil {
		t.Fatal(err)
	}
	check(again)
	again.Close()
}

func TestKeyTable_TheFilterNeverHidesAKey(t *testing.T) {
	t.Parallel()
	db := open(t, pebbledb.Config{})
	table, err := pebbledb.OpenKeyTable(db.DB, []byte("xk"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	now := time.Unix(1_700_000_000, 0)
	for n := range 5000 {
		put(t, db, table, n, now)
	}
	for n := range 5000 {
		if got, err := table.Get(db, hash(n)); err != nil || string(got) != fmt.Sprint(n) {
			t.Fatalf("key %d: %q, %v", n, got, err)
		}
	}
}

func TestRows_TheLastOfSeveralStands(t *testing.T) {
	t.Parallel()
	db := open(t, pebbledb.Config{})
	var rows pebbledb.Rows
	id := [16]byte{1}
	rows.SetID([]byte("x"), &id, []byte("one"))
	rows.SetID([]byte("x"), &id, []byte("two"))
	rows.SetID([]byte("y"), &id, []byte("gone"))
	rows.DeleteID([]byte("y"), &id)
	batch := db.NewBatch()
	if err := errors.Join(rows.Into(batch), batch.Commit(nil)); err != nil {
		t.Fatal(err)
	}
	x, err := pebbledb.Lookup(db, append([]byte("x"), id[:]...))
	y, err2 := pebbledb.Lookup(db, append([]byte("y"), id[:]...))
	if err != nil || err2 != nil || string(x) != "two" || y != nil {
		t.Fatalf("got %q, %q, %v, %v", x, y, err, err2)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, record []byte) {
		// Whatever is on disk, decoding it ends with values or ErrCorrupt.
		d := pebbledb.Decode(record)
		for d.More() {
			_ = d.Byte()
			_ = d.Uvarint()
			_ = d.String()
			_ = d.Time()
			_ = d.Varint()
			_ = d.ID()
		}
		if err := d.Err(); err != nil && !errors.Is(err, pebbledb.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}

// breakable returns a database and a way to let its log fail from then on.
func breakable(t *testing.T) (db *pebbledb.DB, fail func()) {
	t.Helper()
	var broken atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && strings.HasSuffix(op.Path, ".log") {
			return errors.New("input/output error")
		}
		return nil
	}))
	db, err := pebbledb.Open(pebbledb.Config{Dir: "data", FS: fs, MinFreeBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	return db, func() { broken.Store(true) }
}

// write writes more than a block of the log.
func write(t *testing.T, db *pebbledb.DB) (*pebbledb.Pending, error) {
	t.Helper()
	b := db.NewBatch()
	if err := b.Set([]byte("k"), make([]byte, 40<<10), nil); err != nil {
		t.Fatal(err)
	}
	return db.Write(b)
}

func TestWrite_AfterAFailedFlushNothingIsWritten(t *testing.T) {
	t.Parallel()
	db, fail := breakable(t)
	fail()
	p, err := write(t, db)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil {
		t.Fatal("a write that cannot be flushed succeeded")
	}
	for range 3 { // Pebble would panic, holding the lock of its commits
		if _, err := write(t, db); err == nil {
			t.Error("a write after a failed flush was taken")
		}
	}
	if err := db.Close(); err == nil {
		t.Error("closing tells nothing of the failure")
	}
}

func TestWrite_AfterPebblePanickedNobodyWaitsForItsLock(t *testing.T) {
	t.Parallel()
	db, fail := breakable(t)
	fail()
	panicked := false
	for i := 0; i < 1000 && !panicked; i++ { // without waiting for any: the next store does not know yet
		func() {
			defer func() { panicked = recover() != nil }()
			if _, err := write(t, db); err != nil {
				t.Fatal(err)
			}
		}()
		time.Sleep(time.Millisecond)
	}
	testkit.PebbleGaveUp()
	if !panicked || !db.GaveUp() {
		t.Fatal("Pebble did not panic: the test did not test anything")
	}
	if _, err := write(t, db); err == nil {
		t.Error("a write after that was taken")
	}
	if err := db.Commit(db.NewBatch()); err == nil {
		t.Error("a commit after that was taken")
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestCommit_APanicOfPebbleIsAnErrorAndNothingIsWrittenAfterIt(t *testing.T) {
	t.Parallel()
	db, _ := breakable(t)
	testkit.PebbleGaveUp()
	if err := db.Commit(nil); err == nil || !db.GaveUp() {
		t.Fatalf("no batch at all was written: %v", err)
	}
	if _, err := write(t, db); err == nil {
		t.Error("a write after that was taken")
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
