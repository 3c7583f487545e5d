// Package e2e tests the binary as a user runs it: built, started, asked over HTTP,
// killed. It imports nothing of Penstock's but the generated client and the test kit.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/penstockhq/penstock/api/gen/oas"
	"github.com/penstockhq/penstock/internal/testkit"
)

var binary string // built once for all tests

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "penstock-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "penstock")
	build := exec.Command("go", "build", "-o", binary, "github.com/penstockhq/penstock/cmd/penstock")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	if err := errors.Join(testkit.Stop(), os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// server is a running penstock.
type server struct {
	t      testing.TB
	cmd    *exec.Cmd
	url    string
	ops    string
	client *oas.Client
	http   *http.Client
	log    *bytes.Buffer
	ended  chan error
}

// serve starts the binary on dir and waits until it is ready.
func serve(t testing.TB, dir string) *server {
	t.Helper()
	return serveOn(t, "--data", dir)
}

// serveOn is serve with the flags that say where the data is.
func serveOn(t testing.TB, storage ...string) *server {
	t.Helper()
	args := append([]string{"serve", "--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"}, storage...)
	s := &server{t: t, cmd: exec.Command(binary, args...), log: &bytes.Buffer{}, ended: make(chan error, 1)}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintln(s.log, lines.Text())
		var line struct {
			Msg  string `json:"msg"`
			HTTP string `json:"http"`
			Ops  string `json:"ops"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "penstock is ready" {
			s.url, s.ops = "http://"+line.HTTP, "http://"+line.Ops
			break
		}
	}
	if s.url == "" {
		t.Fatalf("the server did not start: %v\n%s", s.cmd.Wait(), s.log)
	}
	go func() {
		for lines.Scan() {
			fmt.Fprintln(s.log, lines.Text())
		}
		s.ended <- s.cmd.Wait()
	}()
	s.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute}
	if s.client, err = oas.NewClient(s.url, oas.WithClient(s.http)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.kill()
		}
	})
	return s
}

// kill ends the server as a crash would, and waits until it is gone.
func (s *server) kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill() // it may be gone already
	<-s.ended
	s.http.CloseIdleConnections()
}

// terminate ends the server cleanly and expects it to say so.
func (s *server) terminate() {
	s.t.Helper()
	s.http.CloseIdleConnections()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := <-s.ended; err != nil {
		s.t.Fatalf("the server stopped with %v:\n%s", err, s.log)
	}
}

// penstock runs a command and returns what it prints and its exit code.
func penstock(t testing.TB, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), code
}

// verify runs `penstock verify` on a folder that nobody serves.
func verify(t testing.TB, dir string) {
	t.Helper()
	verifyOn(t, "--data", dir)
}

// verifyOn is verify with the flags that say where the data is.
func verifyOn(t testing.TB, storage ...string) {
	t.Helper()
	if out, errOut, code := penstock(t, nil, append([]string{"verify"}, storage...)...); code != 0 {
		t.Fatalf("verify exits %d:\n%s%s", code, out, errOut)
	}
}

// stock puts a SKU with units of stock.
func (s *server) stock(sku string, amount, units int64) {
	s.t.Helper()
	_, err := s.client.PutSKU(context.Background(), &oas.PutSKU{
		Title: sku, UnitPrice: oas.Money{Amount: amount, Currency: "GBP"},
	}, oas.PutSKUParams{Sku: oas.SKUCode(sku)})
	if err == nil {
		_, err = s.client.ReceiveStock(context.Background(), &oas.StockReceipt{Quantity: units},
			oas.ReceiveStockParams{Sku: oas.SKUCode(sku), IdempotencyKey: "po-" + sku})
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func status(err error) int {
	if p, ok := errors.AsType[*oas.ProblemStatusCodeWithHeaders](err); ok {
		return p.StatusCode
	}
	return 0
}

func contains(t testing.TB, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", what, w, text)
		}
	}
}

// copyAll reads a response to its end.
func copyAll(w io.Writer, res *http.Response) (int64, error) {
	n, err := io.Copy(w, res.Body)
	return n, errors.Join(err, res.Body.Close())
}
