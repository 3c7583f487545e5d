package testkit

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/penstockhq/penstock/internal/freeport"
)

// PgBouncer puts a PgBouncer in transaction mode before the database of that URL, and
// returns the URL of the way through it. It has two connections to the server for all
// that are made to it, so that whatever is left on one meets others. Where it is not
// installed the test is skipped, or fails if CI=true.
func PgBouncer(t testing.TB, database string) string {
	t.Helper()
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		bin, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
		}
		t.Skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
	}
	behind, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Release() }) // the process ends anyway
	front := *behind
	front.Host = port.Address()
	dir, err := os.MkdirTemp("", "penstock-pgbouncer-") // whoever it runs as must get there
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := filepath.Join(dir, "pgbouncer.ini")
	err = os.WriteFile(config, fmt.Appendf(nil, `[databases]
* = host=%s port=%s user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
`, behind.Hostname(), behind.Port(), behind.User.Username(), port.Number()), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{config}
	if os.Geteuid() == 0 {
		args = []string{"-u", "nobody", config} // it refuses root
	}
	cmd := exec.Command(bin, args...)
	cmd.Stderr = os.Stderr
	if !testing.Verbose() {
		cmd.Stderr = nil
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(cmd.Process.Kill(), cmd.Wait()) }) // it has nothing to lose
	query := front.Query()
	query.Set("default_query_exec_mode", "cache_describe")
	front.RawQuery = query.Encode()
	awaitAnswer(t, front.String())
	return front.String()
}

func awaitAnswer(t testing.TB, url string) {
	t.Helper()
	var err error
	for range 100 {
		var conn *pgx.Conn
		if conn, err = pgx.Connect(context.Background(), url); err == nil {
			_ = conn.Close(context.Background()) // it only had to open
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("PgBouncer does not answer: %v", err)
}
