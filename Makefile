# Every target does its own set-up: on Debian 12 with a Rust toolchain nothing else is needed beforehand.
#
#   make lab       two nodes out of network namespaces, with each tunnel in turn: the main job, shown
#   make test      every check and every test (as root)
#   make bench     micro-benchmarks
#   make compare   throughput against the kernel's own way, in interleaved pairs (as root)
#   make lint      formatting and lints
#   make install   programs, service unit, example configuration and documents below $(DESTDIR)

CARGO   ?= cargo
PREFIX  ?= /usr/local
CNI_DIR ?= /opt/cni/bin
TUNNELS ?= vxlan udp ipip direct
TARGET  := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# `lab` is `release` without whole-program optimization, which takes minutes (Cargo.toml).
LAB_BIN := $(TARGET)/lab
PROGRAMS := -p vswitch -p cni-shim --bins

.PHONY: all lab test bench compare lint install
all: lab

lab:
	@scripts/deps build lab
	$(CARGO) build --profile lab $(PROGRAMS)
	@set -e; for tunnel in $(TUNNELS); do $(LAB_BIN)/vsctl lab --tunnel $$tunnel; done

test: lint
	@scripts/deps test
	@# The programs under test with the features that the tests are built with: dependencies are then built once.
	$(CARGO) build --workspace --bins --tests
	VSWITCH_BIN_DIR=$(abspath $(TARGET)/debug) $(CARGO) test --workspace

lint:
	@scripts/deps build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc -q --workspace --no-deps

bench:
	@scripts/deps build
	$(CARGO) bench -p vswitch-benches

compare:
	@scripts/deps build bench
	$(CARGO) build --release $(PROGRAMS) -p vswitch-benches
	$(TARGET)/release/vswitch-compare $(COMPARE)

install:
	@scripts/deps build
	$(CARGO) build --release $(PROGRAMS)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(CNI_DIR) $(DESTDIR)/etc/vswitch $(DESTDIR)/etc/systemd/system
	install -d $(DESTDIR)$(PREFIX)/share/vswitch $(DESTDIR)$(PREFIX)/share/doc/vswitch
	install -m 0755 $(TARGET)/release/vswitchd $(TARGET)/release/vsctl $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 $(TARGET)/release/vswitch-cni $(DESTDIR)$(CNI_DIR)/
	sed 's|/usr/local|$(PREFIX)|g' deploy/vswitchd.service > $(DESTDIR)/etc/systemd/system/vswitchd.service
	chmod 0644 $(DESTDIR)/etc/systemd/system/vswitchd.service
	@# A configuration that is there already stays; the CNI file is put in place when the daemon is up (docs/operations.md).
	test -e $(DESTDIR)/etc/vswitch/vswitch.toml || install -m 0600 deploy/vswitch.toml $(DESTDIR)/etc/vswitch/
	install -m 0644 deploy/10-vswitch.conflist $(DESTDIR)$(PREFIX)/share/vswitch/
	install -m 0644 docs/*.md $(DESTDIR)$(PREFIX)/share/doc/vswitch/
