# Targets install the Debian packages they need, or name them when they may not.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release
SCRIPTS = $(shell git ls-files | xargs grep -lE '^\#!/bin/(ba)?sh')

.PHONY: help build demo test vm-test vm-test-all vm-demo vm-bench check bench install deb trees guest-trees trixie clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Apart from each other: in one build, cargo would give vmseal-boot the command line parser too.
build: deps-build ## release builds of both programs
	$(CARGO) build --locked --release --package vmseal
	$(CARGO) build --locked --release --package vmseal-boot

demo: build deps-test ## enroll, open, and be refused, on a scratch TPM
	$(CARGO) build --locked --release --package testkit --bin virtual-boot
	PATH="$(abspath $(RELEASE)):$$PATH" demo/run

test: demo deps-vm trees ## the demo, then every test, mini guests included
	$(CARGO) test --locked --workspace --doc
	$(CARGO) test --locked --workspace --lib --bins --tests

vm-test: build deps-vm guest-trees ## whole measured boots of mini guests only
	$(CARGO) test --locked --package vmseal --test vm

vm-test-all: build deps-vm trees ## every whole boot, or those of BOOTS="words"; writes docs/boots.md
	tests/vm/all $(BOOTS)

vm-demo: build deps-vm guest-trees ## watch a machine: enrolled, opened by itself, refused after a change
	VMSEAL_SHOW_CONSOLE=1 $(CARGO) test --locked --package vmseal --test vm a_whole_story -- --ignored

vm-bench: build deps-vm deps-bench guest-trees ## the root opened by vmseal, systemd and clevis, side by side
	$(CARGO) test --locked --package vmseal --test vm side_by_side -- --ignored --nocapture

check: deps-build deps-check ## formatting, clippy, licences of dependencies, shellcheck, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --package vmseal-boot -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources
	shellcheck $(SCRIPTS)

bench: build deps-bench trixie ## unlock beside systemd and clevis on one TPM; digests and predict beside sha256sum; a host beside cryptenroll
	$(CARGO) bench --locked --package vmseal

# Builds only what is not built: "sudo make install" need not have cargo.
install: ## into $(DESTDIR)$(PREFIX)
	[ -x $(RELEASE)/vmseal ] && [ -x $(RELEASE)/vmseal-boot ] || $(MAKE) build
	install -D $(RELEASE)/vmseal $(DESTDIR)$(PREFIX)/bin/vmseal
	install -D $(RELEASE)/vmseal-boot $(DESTDIR)$(PREFIX)/lib/vmseal/vmseal-boot
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 man/*.8
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man7 man/*.7
	install -d $(addprefix $(DESTDIR)$(PREFIX)/share/,$(COMPLETION_FOLDERS))
	$(RELEASE)/vmseal generate bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/vmseal
	$(RELEASE)/vmseal generate zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_vmseal
	$(RELEASE)/vmseal generate fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/vmseal.fish
	$(if $(filter /usr,$(PREFIX)),$(INSTALL_HOOKS),@echo "the hooks of initramfs-tools, dracut, kernel updates and libvirt are installed with PREFIX=/usr only")

# Where others look for them, and nowhere else. They call what is in /usr/lib/vmseal.
define INSTALL_HOOKS
install -d $(DESTDIR)/usr/share/initramfs-tools $(DESTDIR)/usr/lib/dracut/modules.d
cp -RP --preserve=mode system/. $(DESTDIR)/
install -D -m 644 packaging/reseal.conf $(DESTDIR)/etc/vmseal/reseal.conf
cp -R --preserve=mode initramfs-hooks/. $(DESTDIR)/usr/share/initramfs-tools
cp -R --preserve=mode dracut/90vmseal $(DESTDIR)/usr/lib/dracut/modules.d
endef

deb: build deps-deb ## Debian packages: vmseal, vmseal-initramfs, vmseal-dracut, vmseal-host
	packaging/deb $(RELEASE)/../deb

COMPLETION_FOLDERS = bash-completion/completions zsh/site-functions fish/vendor_completions.d

deps-%:
	tests/env/packages $*

# Debian trees with other versions of systemd; those of Debian 12 and 13 are for the guests too, as are
# whole installed systems.
trees: guest-trees
	tests/env/tree forky

guest-trees: trixie
	tests/env/tree backports
	tests/env/guest-tree guest-bookworm
	tests/env/guest-tree guest-trixie

trixie: deps-test
	tests/env/tree trixie

clean: ## what was built, and the scratch folders of the tests
	$(CARGO) clean
	rm -rf .cache
