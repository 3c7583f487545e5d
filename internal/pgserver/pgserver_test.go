package pgserver

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstockhq/penstock/internal/freeport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(context.Background(), cfg)
	if errors.Is(err, ErrNotInstalled) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// listen takes the port of a server away from it.
func listen(t *testing.T, p *freeport.Port) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", p.Address())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStart_TakesAnotherPortWhereSomebodyWasFaster(t *testing.T) {
	t.Parallel()
	var taken *freeport.Port
	s := start(t, Config{take: func() (*freeport.Port, error) {
		p, err := freeport.Take()
		if err == nil && taken == nil {
			taken = p
			l := listen(t, p)
			t.Cleanup(func() { _ = l.Close() })
		}
		return p, err
	}})
	if s.port.Number() == taken.Number() {
		t.Errorf("the server has port %d, on which somebody else listens", taken.Number())
	}
	if _, err := s.Create(context.Background(), "shop"); err != nil {
		t.Error(err)
	}
}

func TestRestart_WaitsForItsPort(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	l := listen(t, s.port)
	restarted := make(chan error, 1)
	go func() { restarted <- s.Restart(context.Background()) }()
	for refused := []byte("could not create any TCP/IP sockets"); ; time.Sleep(time.Millisecond) {
		log, err := os.ReadFile(filepath.Join(s.Dir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(log, refused) {
			break
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(context.Background(), "shop"); err != nil {
		t.Error(err)
	}
}

func TestStop_LeavesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, Config{})
	if err := errors.Join(s.Stop(), s.Stop()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its folder: %v", err)
	}
	claim, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", s.port.Address())
	if err != nil {
		t.Fatalf("its port is still claimed: %v", err)
	}
	if err := errors.Join(listen(t, s.port).Close(), claim.Close()); err != nil {
		t.Error(err)
	}
}

func TestStart_SaysWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	start(t, Config{}) // PostgreSQL is installed
	parent := t.TempDir()
	if err := errors.Join(os.Chmod(parent, 0o755), os.Chmod(filepath.Dir(parent), 0o755)); err != nil {
		t.Fatal(err)
	}
	_, err := Start(context.Background(), Config{Parent: parent, Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("a server with a wrong setting: %v", err)
	}
	left, err := os.ReadDir(parent)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
