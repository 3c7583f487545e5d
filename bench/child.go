package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/penstockhq/penstock/internal/cli"
)

// childCommand makes this program play a server, so that client and server are two
// processes as they are in life. With "empty" it is a net/http server whose one handler
// reads the body and answers 201; otherwise it is penstock itself with the given arguments.
const childCommand = "child"

func child(args []string) {
	if len(args) > 0 && args[0] == "empty" {
		if err := emptyServer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(args) > 0 && args[0] == sellerCommand {
		if err := sellerMain(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(args) > 0 && args[0] == targetCommand {
		if err := targetMain(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(cli.Main(args, os.Stdout, os.Stderr))
}

// emptyServer answers every POST with 201 and nothing, having read its body.
func emptyServer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a broken body shows at the client
		w.WriteHeader(http.StatusCreated)
	})}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { _ = srv.Close() }) // it is the end anyway
	fmt.Fprintf(os.Stderr, `{"msg":"penstock is ready","http":"%s","ops":""}`+"\n", l.Addr())
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// server is a child process that serves.
type server struct {
	cmd       *exec.Cmd
	url, ops  string
	dir       string
	readyTook time.Duration
}

// startServer starts the child and waits until it is ready. dir is penstock's data
// folder, "" for the empty server.
func startServer(dir string, flags ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{childCommand, "empty"}
	if dir != "" {
		args = append([]string{childCommand, "serve", "--data", dir, "--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"}, flags...)
	}
	return startCommand(dir, exec.Command(self, args...))
}

// startOnOneCore is startServer with penstock confined to one core, so that the load
// generator has the other to itself. Without taskset it is not confined.
func startOnOneCore(dir string) (s *server, confined bool, err error) {
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		s, err = startServer(dir)
		return s, false, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, false, err
	}
	s, err = startCommand(dir, exec.Command(taskset, "-c", "0", self, childCommand, "serve", "--data", dir, "--http", "127.0.0.1:0", "--ops", "127.0.0.1:0"))
	return s, true, err
}

func startCommand(dir string, cmd *exec.Cmd) (*server, error) {
	s := &server{cmd: cmd, dir: dir}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		if !strings.Contains(line, "penstock is ready") {
			fmt.Fprintln(os.Stderr, line)
			continue
		}
		s.readyTook = time.Since(begin)
		s.url, s.ops = "http://"+field(line, "http"), "http://"+field(line, "ops")
		go func() {
			for lines.Scan() {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
		}()
		return s, nil
	}
	return nil, fmt.Errorf("the server did not start: %w", s.cmd.Wait())
}

func field(line, name string) string {
	_, rest, _ := strings.Cut(line, `"`+name+`":"`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// stop ends the server cleanly.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

// residentBytes reads the child's resident memory.
func (s *server) residentBytes() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw), "VmRSS:")
	if !ok {
		return 0, errors.New("this system does not tell resident memory")
	}
	var kb float64
	_, err = fmt.Sscan(rest, &kb)
	return kb * 1024, err
}
