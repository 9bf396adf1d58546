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
	$(GO) generate ./...

format: ## bring the sources into their form
	gofmt -w .
	$(CLANG_FORMAT) -i $(wildcard */bpf/*.[ch])

check: ## judge the sources without running them
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt would change: $$files"; exit 1; }
	$(GO) vet ./... && $(TOOL) staticcheck ./...
	$(CLANG_FORMAT) --dry-run -Werror $(wildcard */bpf/*.[ch])

test: ## run all tests; as root those that need namespaces and eBPF, too
	@e2e/setup
	$(GO) test ./...

lab: build ## watch the director at work (as root)
	build/director lab nat

bench: ## measure
	$(GO) test -run='^$$' -bench=. ./...

install: build ## install director, and ipvsadm as links to it, below $(DESTDIR)$(PREFIX)
	install -D -m 0755 build/director $(DESTDIR)$(PREFIX)/sbin/director
	install -D -m 0644 realserver/director-realserver.service $(DESTDIR)$(PREFIX)/lib/systemd/system/director-realserver.service
	sed -i 's|@PREFIX@|$(PREFIX)|' $(DESTDIR)$(PREFIX)/lib/systemd/system/director-realserver.service
	for name in ipvsadm ipvsadm-save ipvsadm-restore; do ln -sf director $(DESTDIR)$(PREFIX)/sbin/$$name; done

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

.PHONY: build generate format check test lab bench install help
