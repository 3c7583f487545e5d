// Package pebbledb is what Penstock's embedded stores share: one Pebble database in
// the data folder, opened with care, and the small structures laid on it.
//
// Every store owns a range of keys, named in ARCHITECTURE.md, and writes through its
// own group commit. One database serves all of them, so that a snapshot of it is a
// consistent picture of orders and stock together: that is what verify reads.
//
// What a reader would get wrong: Pebble makes a batch visible before it is durable.
// Whoever answers from a read waits for the Barrier of the batcher that writes there.
package pebbledb

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/penstockhq/penstock/internal/fault"
)

// Format is the newest version of the layout in the data folder that this program knows.
const Format = formatHistory

const (
	// formatFirst is what a new folder has.
	formatFirst = 1
	// formatHistory is what a folder has from the first time on that history is removed
	// from it: a program that does not know of that would take it for damage.
	formatHistory = 2
)

const (
	formatFile = "PENSTOCK"
	dbFolder   = "db"
)

// Config of a DB.
type Config struct {
	// Dir is the data folder; it is created if need be.
	Dir string
	// FS is the file system. Defaults to the machine's.
	FS vfs.FS
	// CacheBytes is the block cache. Defaults to 64 MiB.
	CacheBytes int64
	// MemTableBytes is the size of one memory table. Defaults to 64 MiB.
	MemTableBytes uint64
	// MinFreeBytes is the free disk space below which new work is refused.
	// Defaults to 256 MiB; negative switches the check off.
	MinFreeBytes int64
	// ReadOnly opens without writing anything. The folder must exist.
	ReadOnly bool
	// Logger gets Pebble's errors. Defaults to none.
	Logger *slog.Logger
}

// DB is an open data folder.
type DB struct {
	*pebble.DB

	cfg   Config
	cache *pebble.Cache
	lock  io.Closer
	// fatal is set when Pebble gave up; it may hold locks for ever then.
	fatal  *atomic.Bool
	failed atomic.Bool // a flush failed: nothing can be written any more, but closed

	freeAt atomic.Int64 // unix nanoseconds of the last look at the disk
	full   atomic.Bool
}

// Open opens or creates the data folder. A folder that another process uses, that is
// of a newer format, or that cannot be written is refused with an error that says so.
func Open(cfg Config) (*DB, error) {
	cfg.FS = cmp.Or[vfs.FS](cfg.FS, vfs.Default)
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, 64<<20)
	cfg.MemTableBytes = cmp.Or(cfg.MemTableBytes, 64<<20)
	cfg.MinFreeBytes = cmp.Or(cfg.MinFreeBytes, 256<<20)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Dir == "" {
		return nil, errors.New("no data folder is named")
	}
	dir := filepath.Join(cfg.Dir, dbFolder)
	if err := checkFormat(cfg); err != nil {
		return nil, err
	}
	if !cfg.ReadOnly {
		if err := makeFolder(cfg.FS, dir); err != nil {
			return nil, fmt.Errorf("create data folder %s: %w", cfg.Dir, err)
		}
	}
	lock, err := pebble.LockDirectory(dir, cfg.FS)
	if err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("open data folder %s: %w", cfg.Dir, err)
		}
		return nil, fmt.Errorf("data folder %s is in use by another penstock process (%w): "+
			"stop that one, or name another folder with --data", cfg.Dir, err)
	}
	db, err := open(cfg, dir, lock)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return db, nil
}

func open(cfg Config, dir string, lock *pebble.Lock) (*DB, error) {
	fatal := &atomic.Bool{}
	opts := options(cfg, fatal)
	opts.Lock = lock
	opts.Cache = pebble.NewCache(cfg.CacheBytes)
	inner, err := pebble.Open(dir, opts)
	if err != nil {
		opts.Cache.Unref()
		return nil, fmt.Errorf("open data folder %s: %w", cfg.Dir, err)
	}
	db := &DB{DB: inner, cfg: cfg, cache: opts.Cache, lock: lock, fatal: fatal}
	if cfg.ReadOnly {
		return db, nil
	}
	if _, err := cfg.FS.Stat(filepath.Join(cfg.Dir, formatFile)); err == nil {
		return db, nil
	}
	if err := writeFormat(cfg, formatFirst); err != nil {
		return nil, errors.Join(err, db.DB.Close())
	}
	return db, nil
}

// makeFolder creates dir and what is missing above it, each so that it survives a loss
// of power: what a folder holds is durable only once the folder's own entry is.
func makeFolder(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeFolder(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncFolder(fs, parent)
}

func syncFolder(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func options(cfg Config, fatal *atomic.Bool) *pebble.Options {
	opts := &pebble.Options{
		FS:                          cfg.FS,
		ReadOnly:                    cfg.ReadOnly,
		ErrorIfNotExists:            cfg.ReadOnly,
		FormatMajorVersion:          pebble.FormatNewest,
		Logger:                      logger{cfg.Logger, fatal},
		MemTableSize:                cfg.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       16,
		L0StopWritesThreshold:       40,
		LBaseMaxBytes:               1 << 30,
		CompactionConcurrencyRange:  func() (int, int) { return 1, max(1, runtime.GOMAXPROCS(0)/4) },
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				cfg.Logger.Error("storage: background work failed; it is tried again", "error", err)
			},
			WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
				cfg.Logger.Warn("storage: writes wait for compaction", "reason", info.Reason)
			},
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
		if i < 2 {
			opts.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		}
	}
	opts.TargetFileSizes[0] = 8 << 20
	return opts
}

// Close flushes and closes. After Pebble gave up it only releases the folder's lock.
func (db *DB) Close() error {
	defer db.cache.Unref()
	if db.fatal.Load() {
		return db.lock.Close()
	}
	if err := errors.Join(db.DB.Close(), db.lock.Close()); err != nil {
		return fmt.Errorf("close data folder %s: %w", db.cfg.Dir, err)
	}
	return nil
}

// GaveUp reports whether Pebble panicked and may hold its locks for ever: all that can be
// done is to end the process.
func (db *DB) GaveUp() bool { return db.fatal.Load() }

// Dir returns the data folder.
func (db *DB) Dir() string { return db.cfg.Dir }

// Write begins to make b durable; the returned Pending's Wait tells when it is. It
// panics when Pebble cannot go on, as groupcommit expects of a store that must stop.
func (db *DB) Write(b *pebble.Batch) (*Pending, error) {
	if db.fatal.Load() || db.failed.Load() {
		return nil, errors.New("write batch: the storage has failed before")
	}
	returned := false
	defer func() {
		if !returned {
			// A panic, perhaps of Pebble itself, which then holds a lock that the next write
			// and Close would wait for without end.
			db.fatal.Store(true)
		}
	}()
	err := db.ApplyNoSyncWait(b, pebble.Sync)
	returned = true
	if err != nil {
		return nil, fmt.Errorf("write batch: %w", err)
	}
	return &Pending{db, b}, nil
}

// Pending is a batch that is being made durable.
type Pending struct {
	db    *DB
	batch *pebble.Batch
}

// Wait returns when the batch is on disk, or with an error when that is uncertain.
func (p *Pending) Wait() error {
	if err := p.batch.SyncWait(); err != nil {
		p.db.failed.Store(true) // another store's next write would make Pebble panic
		return fmt.Errorf("flush batch to disk: %w", err)
	}
	if err := p.batch.Close(); err != nil {
		return fmt.Errorf("release batch: %w", err)
	}
	return nil
}

// Commit makes b durable, beside what the stores write. Unlike Write it does not panic
// when Pebble cannot go on; the stores' next write stops them.
func (db *DB) Commit(b *pebble.Batch) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("write batch: %v", cause)
		}
	}()
	pending, err := db.Write(b)
	if err != nil {
		return err
	}
	return pending.Wait()
}

// RemovesHistory is called before history is removed for the first time: programs that do
// not know of that refuse the folder from then on.
func (db *DB) RemovesHistory() error {
	path := filepath.Join(db.cfg.Dir, formatFile)
	format, err := readFormat(db.cfg.FS, path)
	if err != nil || format >= formatHistory {
		return err
	}
	return writeFormat(db.cfg, formatHistory)
}

// CheckSpace refuses new work with fault.DiskFull when the disk is nearly full. It
// looks at the disk at most once a second.
func (db *DB) CheckSpace(now time.Time) error {
	if db.cfg.MinFreeBytes < 0 {
		return nil
	}
	last := db.freeAt.Load()
	if now.UnixNano()-last >= int64(time.Second) && db.freeAt.CompareAndSwap(last, now.UnixNano()) {
		usage, err := db.cfg.FS.GetDiskUsage(db.cfg.Dir)
		if err == nil {
			db.full.Store(usage.AvailBytes < uint64(db.cfg.MinFreeBytes))
		}
	}
	if db.full.Load() {
		return fault.New(fault.DiskFull, "less than %d MiB are free on the disk of the data folder; "+
			"new work is refused until there is more", db.cfg.MinFreeBytes>>20).WithRetryAfter(10 * time.Second)
	}
	return nil
}

// Lookup copies the value of key; nil where there is none.
func Lookup(r pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	found := make([]byte, len(value))
	copy(found, value)
	if err := closer.Close(); err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	return found, nil
}

type folderFormat struct {
	Format int `json:"format"`
}

func checkFormat(cfg Config) error {
	path := filepath.Join(cfg.Dir, formatFile)
	format, err := readFormat(cfg.FS, path)
	switch {
	case errors.Is(err, os.ErrNotExist) && cfg.ReadOnly:
		return fmt.Errorf("%s is not a penstock data folder: it has no file %s", cfg.Dir, formatFile)
	case errors.Is(err, os.ErrNotExist):
		return refuseForeign(cfg)
	case err != nil:
		return err
	case format > Format:
		return fmt.Errorf("data folder %s has format %d, this penstock knows up to %d: "+
			"run the version that wrote it, or a newer one", cfg.Dir, format, Format)
	}
	return nil
}

func readFormat(fs vfs.FS, path string) (int, error) {
	f, err := fs.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open data folder: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(f, 1<<12))
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	var got folderFormat
	if err := json.Unmarshal(raw, &got); err != nil || got.Format < formatFirst {
		return 0, fmt.Errorf("%s does not say which format the folder has (want {\"format\":%d}): "+
			"restore it from a backup", path, Format)
	}
	return got.Format, nil
}

// refuseForeign keeps Penstock from settling in a folder that holds something else.
func refuseForeign(cfg Config) error {
	names, err := cfg.FS.List(cfg.Dir)
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(names) == 0) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open data folder %s: %w", cfg.Dir, err)
	}
	for _, n := range names {
		// A start that died before it wrote the format file leaves only the database.
		if n != dbFolder && n != "lost+found" {
			return fmt.Errorf("%s is not a penstock data folder: it has no file %s but holds %s; "+
				"name an empty or new folder with --data", cfg.Dir, formatFile, n)
		}
	}
	return nil
}

func writeFormat(cfg Config, format int) error {
	path := filepath.Join(cfg.Dir, formatFile)
	raw, err := json.Marshal(folderFormat{format})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// Written aside and renamed, so that a crash leaves a whole file or none.
	f, err := cfg.FS.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := cfg.FS.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := syncFolder(cfg.FS, cfg.Dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// logger hands Pebble's errors to slog and turns "fatal" into a panic, which the
// group commit turns into an orderly stop.
type logger struct {
	log   *slog.Logger
	fatal *atomic.Bool
}

func (l logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("storage: " + fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	l.fatal.Store(true)
	panic("storage: " + fmt.Sprintf(format, args...))
}
