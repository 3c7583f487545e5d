package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/pgserver"
	"github.com/penstockhq/penstock/internal/testkit"
)

// bothOf is the connection string of a primary and its standby: whichever may be written to.
func bothOf(one, other *pgserver.Server) string {
	second, _, _ := strings.Cut(strings.TrimPrefix(other.URL("postgres"), "postgres://postgres@"), "/")
	return strings.Replace(one.URL("postgres"), "/postgres?", ","+second+"/postgres?", 1) + "&target_session_attrs=read-write"
}

func TestPostgres_AfterAStandbyIsPromotedTheProcessesGoOnWithIt(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	primary := testkit.Server(t)
	standby := testkit.Standby(t, primary)
	// What is acknowledged is then on both.
	if err := primary.Set(ctx, "synchronous_standby_names", "*"); err != nil {
		t.Fatal(err)
	}
	url := bothOf(primary, standby)
	servers := processesOn(t, url, 2, "A", 1_000_000, nil)
	c := newCustomers(t, servers...)
	c.come(6, "A")
	c.acknowledge(50)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	_, err := servers[0].place("while-away", want("A", 1))
	if p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err); !ok || p.StatusCode != http.StatusServiceUnavailable || !p.RetryAfter.Set {
		t.Fatalf("without a primary an order was answered with %v", err)
	}
	if err := standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	c.acknowledge(1)
	t.Logf("the first order was acknowledged %v after the promotion", time.Since(promoted).Round(time.Millisecond))
	c.acknowledge(50)
	c.leave(servers[1])
	settled(t, servers[0])
}

// smallDisk mounts a file system in memory of so many megabytes.
func smallDisk(t *testing.T, megabytes int) string {
	t.Helper()
	dir := t.TempDir()
	// PostgreSQL runs as somebody else, who must get there.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm,mode=0777", megabytes), "tmpfs", dir).CombinedOutput()
	if err != nil {
		t.Skipf("a small disk cannot be mounted here: %v: %s", err, bytes.TrimSpace(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}

func TestPostgres_AFullDiskLosesNothingAndWhenThereIsRoomAgainOrdersAreTaken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	dir := smallDisk(t, 200)
	server := testkit.ServerWith(t, pgserver.Config{Parent: dir, Settings: map[string]string{"max_wal_size": "48MB", "min_wal_size": "32MB"}})
	one := startOn(t, server.URL("postgres"), nil)
	one.shop(map[string]int64{"A": 1_000_000})
	c := newCustomers(t, one)
	c.come(6, "A")
	for range 2 {
		c.acknowledge(50)
		ballast := filepath.Join(dir, "ballast")
		fill(t, ballast)
		for i := 0; ; i++ { // what PostgreSQL has set aside is used up first
			_, err := one.place(fmt.Sprintf("%s-%d", filepath.Base(dir), i), want("A", 1))
			if err == nil {
				continue
			}
			p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err)
			if !ok || !p.RetryAfter.Set || (p.StatusCode != http.StatusServiceUnavailable && p.StatusCode != http.StatusInsufficientStorage) {
				t.Fatalf("with a full disk an order was answered with %v", err)
			}
			break
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if server.Exited() { // it ends where it cannot write its log
			if err := server.Restart(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.acknowledge(50)
	c.leave(one)
	settled(t, one)
}
