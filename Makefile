# SPDX-License-Identifier: Apache-2.0

PREFIX ?= /usr/local
GO ?= go
TOOL = $(GO) tool -modfile=$(CURDIR)/tools/go.mod
CLANG_FORMAT ?= clang-format
# sudo forgets where Go is.
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go/bin:/snap/bin

build: ## build the binary: build/director
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w" -o build/director ./cmd/director

generate: ## compile the eBPF programs anew (needs clang 14, llvm-strip, libbpf-dev)
	$(GO) generate ./dataplane ./realserver
	$(GO) generate ./cmd/...

format: ## bring the sources into their form
	gofmt -w .
	$(CLANG_FORMAT) -i $(wildcard */bpf/*.[ch])

check: ## judge the sources without running them
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt would change: $$files"; exit 1; }
	$(GO) vet ./... && $(TOOL) staticcheck ./...
	cd tools && $(GO) vet ./... && $(GO) test ./...
	$(CLANG_FORMAT) --dry-run -Werror $(wildcard */bpf/*.[ch])

test: ## run all tests; as root those that need namespaces and eBPF, too
	@e2e/setup
	$(GO) test -count=1 -timeout 25m ./...

race: ## run all tests under Go's race detector (needs cgo, and time)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 60m ./...

lab: build ## watch the director at work (as root)
	build/director lab nat

bench: build ## measure, as root and with nothing else running: docs/figures.md, docs/figures.svg
	$(GO) test -run='^$$' -bench=. -benchtime=2s -timeout 30m ./... | tee build/bench.txt
	@! grep -q '^FAIL' build/bench.txt
	cd tools && $(GO) run ./figures ../docs/figures.md ../docs/figures.svg <../build/bench.txt

SHARE = $(DESTDIR)$(PREFIX)/share
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
LINKS = ipvsadm ipvsadm-save ipvsadm-restore
install: build ## install director, ipvsadm as links to it, manual pages and completions below $(DESTDIR)$(PREFIX)
	install -D -m 0755 build/director $(DESTDIR)$(PREFIX)/sbin/director
	install -D -m 0644 -t $(UNITS) cmd/director/director.service realserver/director-realserver.service
	sed -i 's|@PREFIX@|$(PREFIX)|' $(UNITS)/director.service $(UNITS)/director-realserver.service
	install -D -m 0644 -t $(SHARE)/man/man8 cmd/director/director.8 ipvsadm/ipvsadm.8
	install -D -m 0644 cmd/director/completion/director.bash $(SHARE)/bash-completion/completions/director
	install -D -m 0644 cmd/director/completion/director.zsh $(SHARE)/zsh/site-functions/_director
	install -D -m 0644 -t $(SHARE)/fish/vendor_completions.d cmd/director/completion/director.fish
	for name in $(LINKS); do \
		ln -sf director $(DESTDIR)$(PREFIX)/sbin/$$name && \
		ln -sf director $(SHARE)/bash-completion/completions/$$name && \
		ln -sf director.fish $(SHARE)/fish/vendor_completions.d/$$name.fish || exit; \
	done
	for name in save restore; do echo '.so man8/ipvsadm.8' >$(SHARE)/man/man8/ipvsadm-$$name.8; done

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: build generate format check test race lab bench install help
