# What one types most. Everything here is plain Go underneath.
.PHONY: all generate test lint bench corpus torture fuzz

TOOL = go tool -modfile=tools/go.mod

all: generate test lint

generate: ## make generated code again
	cd api && go generate ./...

test: ## all tests, with the race detector
	go test -race ./...

lint: ## everything that .golangci.yml asks for
	$(TOOL) golangci-lint run ./...

bench: ## print every table of docs/benchmarks.md; EXPERIMENT="http batch" for some
	cd bench && go run . $(EXPERIMENT)

corpus: ## examine every program of doctor's corpus with a window of 30 s
	PENSTOCK_CORPUS=full PENSTOCK_CORPUS_VERBOSE=1 go test -count=1 -timeout=0 -v -run TestCorpus ./internal/doctor

torture: ## kill the server under load, ROUNDS times (default 200)
	PENSTOCK_TORTURE_ROUNDS=$(or $(ROUNDS),200) go test -count=1 -timeout=0 -v -run TestCrash ./test/e2e

fuzz: ## a minute of each fuzz target
	go test -run '^$$' -fuzz FuzzPlaceOrder -fuzztime 1m ./internal/app
	go test -run '^$$' -fuzz FuzzRead -fuzztime 1m ./internal/doctor/goroutine
	go test -run '^$$' -fuzz FuzzDecode -fuzztime 1m ./internal/cursor
	go test -run '^$$' -fuzz FuzzDecoder -fuzztime 1m ./internal/pebbledb
