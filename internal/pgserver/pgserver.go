// Package pgserver runs a private PostgreSQL from the binaries that are installed, in a
// temporary folder on a free port of loopback: for the demo, benchmarks and tests, which
// may kill it. It is not for production data.
package pgserver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/freeport"
)

// ErrNotInstalled says that there are no PostgreSQL binaries.
var ErrNotInstalled = errors.New("PostgreSQL is not installed: initdb and postgres are neither in PATH nor in /usr/lib/postgresql; " +
	"install it (Debian: apt-get install postgresql), or give the URL of a server")

// Config of a Server. The zero value is ready for use.
type Config struct {
	// Parent is where the server's folder is made. Defaults to the system's temporary files.
	Parent string
	// Settings are lines of postgresql.conf, such as "max_connections": "200".
	Settings map[string]string

	// take finds the port. Defaults to freeport.Take; tests give one that is not free.
	take func() (*freeport.Port, error)
}

// Server is a PostgreSQL process. Make one with Start, end it with Stop.
type Server struct {
	bin, dir string
	port     *freeport.Port
	owner    *account
	settings map[string]string
	process  *exec.Cmd
	exited   chan struct{}
	log      *os.File
}

// find returns the folder of the newest installed binaries.
func find() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target // where the others are
		}
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is right
	if len(found) == 0 {
		return "", ErrNotInstalled
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
	return filepath.Dir(newest), nil
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 sorts first
	return n
}

// Start makes a cluster and starts a server on it. It takes a second or two.
func Start(ctx context.Context, cfg Config) (s *Server, err error) {
	return create(ctx, cfg, func(s *Server) *exec.Cmd {
		return s.command(ctx, "initdb", "--pgdata", s.data(), "--username", "postgres", "--auth", "trust",
			"--encoding", "UTF8", "--locale", "C", "--no-sync")
	})
}

// Standby makes a copy of s that follows what s commits, with the settings of cfg.
func (s *Server) Standby(ctx context.Context, cfg Config) (*Server, error) {
	return create(ctx, cfg, func(standby *Server) *exec.Cmd {
		return standby.command(ctx, "pg_basebackup", "--dbname", s.URL("postgres"), "--pgdata", standby.data(),
			"--write-recovery-conf", "--checkpoint", "fast", "--no-sync")
	})
}

// Promote makes a standby a primary and returns when it is one.
func (s *Server) Promote(ctx context.Context) error {
	return s.exec(ctx, "SELECT pg_promote()")
}

// create makes a folder, has cluster fill it, and starts a server on it.
func create(ctx context.Context, cfg Config, cluster func(*Server) *exec.Cmd) (s *Server, err error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.Parent, "penstock-postgres-")
	if err != nil {
		return nil, fmt.Errorf("private PostgreSQL: %w", err)
	}
	s = &Server{bin: bin, dir: dir, settings: cfg.Settings}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if s.owner, err = ownerOf(dir); err != nil {
		return nil, err
	}
	cmd := cluster(s)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("private PostgreSQL: %s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out))
	}
	take := cfg.take
	if take == nil {
		take = freeport.Take
	}
	for attempt := 0; ; attempt++ {
		if s.port, err = take(); err != nil {
			return nil, fmt.Errorf("private PostgreSQL: %w", err)
		}
		if err = s.start(ctx); err == nil {
			return s, nil
		}
		if err = errors.Join(err, s.port.Release()); !errors.Is(err, errPortTaken) || attempt == 10 {
			return nil, err
		}
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// command runs a binary as an account that PostgreSQL accepts: it refuses root.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	s.owner.apply(cmd)
	return cmd
}

// URL is the connection string of a database on the server.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", s.port.Address(), database)
}

// Dir is where the server has its files.
func (s *Server) Dir() string { return s.dir }

var (
	// errStillThere says that processes of a server that was killed are not gone yet.
	errStillThere = errors.New("private PostgreSQL: processes of the server that was killed are still there")
	// errPortTaken says that somebody else listens on the server's port.
	errPortTaken = errors.New("private PostgreSQL: somebody else listens on its port")
)

// Restart starts the server after Kill on the port that it had, and returns when it takes
// connections.
func (s *Server) Restart(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := s.start(ctx)
		again := errors.Is(err, errStillThere) || errors.Is(err, errPortTaken)
		if !again || attempt == 200 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *Server) start(ctx context.Context) error {
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.port.Number()), "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"}
	for name, value := range s.settings {
		args = append(args, "-c", name+"="+value)
	}
	var err error
	if s.log, err = os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("private PostgreSQL: %w", err)
	}
	before, err := s.log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(fmt.Errorf("private PostgreSQL: %w", err), s.log.Close())
	}
	s.process = s.command(context.WithoutCancel(ctx), "postgres", args...)
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if err := s.process.Start(); err != nil {
		return errors.Join(fmt.Errorf("private PostgreSQL: %w", err), s.log.Close())
	}
	s.exited = make(chan struct{})
	go func() { // ends with the process
		_ = s.process.Wait() // its log says why
		_ = s.log.Close()
		close(s.exited)
	}()
	if err := s.ready(ctx, before); err != nil {
		return errors.Join(err, s.Kill())
	}
	return nil
}

// ready waits until the server takes connections, or says why it ended: what stands in
// its log after so many bytes.
func (s *Server) ready(ctx context.Context, before int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	exited := s.exited
	go func() { // ends with this function; whoever else has the port may not answer
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			if s.Exited() {
				return s.ended(before)
			}
			return fmt.Errorf("private PostgreSQL does not take connections: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *Server) ended(before int64) error {
	log, _ := os.ReadFile(filepath.Join(s.dir, "log")) // without it the error is shorter
	switch log = log[min(int(before), len(log)):]; {
	case bytes.Contains(log, []byte("still in use")):
		return errStillThere
	case bytes.Contains(log, []byte("Address already in use")):
		return errPortTaken
	}
	return fmt.Errorf("private PostgreSQL ended at once: %s", bytes.TrimSpace(log))
}

// Create makes an empty database.
func (s *Server) Create(ctx context.Context, database string) (url string, err error) {
	if err := s.exec(ctx, "CREATE DATABASE "+pgx.Identifier{database}.Sanitize()); err != nil {
		return "", fmt.Errorf("create database %s: %w", database, err)
	}
	return s.URL(database), nil
}

// Set changes a setting for good without a restart.
func (s *Server) Set(ctx context.Context, name, value string) error {
	if err := s.exec(ctx, "ALTER SYSTEM SET "+pgx.Identifier{name}.Sanitize()+" = '"+strings.ReplaceAll(value, "'", "''")+"'"); err != nil {
		return err
	}
	return s.exec(ctx, "SELECT pg_reload_conf()")
}

func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("private PostgreSQL: %w", err)
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// Exited tells whether the server has ended.
func (s *Server) Exited() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// Kill ends the server and every process of it at once, as a crash would.
func (s *Server) Kill() error {
	return s.signal(os.Kill)
}

// Stop ends the server, cutting what is connected, removes its files and gives its port
// back. It may be called twice.
func (s *Server) Stop() error {
	return errors.Join(s.signal(os.Interrupt), s.port.Release(), os.RemoveAll(s.dir))
}

func (s *Server) signal(sig os.Signal) error {
	if s.Exited() {
		return nil
	}
	if sig == os.Kill {
		s.killAll()
	}
	if err := s.process.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end private PostgreSQL: %w", err)
	}
	<-s.exited
	return nil
}

// killAll kills the server and its backends, where the system tells which they are;
// elsewhere they notice by themselves that the server is gone.
func (s *Server) killAll() {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", s.process.Process.Pid))
	if err != nil {
		return
	}
	// First the postmaster, so that it does not begin a recovery of its own.
	_ = s.process.Process.Kill()
	for field := range strings.FieldsSeq(string(raw)) {
		if pid, err := strconv.Atoi(field); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill() // it may be gone already
			}
		}
	}
}
