# What there is to make. Building needs nothing of this: cargo build.
#   make setup     Debian packages for test and demo, which call it themselves
#   make test      formatting, lints, tests
#   make demo      a first look, in a folder that disappears
#   make bench     comparison with other programs, into docs/benchmarks.md; of engines and of validation, beside it
#   make fuzz      every fuzz target for FUZZ_S seconds
#   make install   with DESTDIR and PREFIX (/usr/local)

PREFIX ?= /usr/local
export PREFIX DESTDIR LIBDIR SYSCONFDIR UNITDIR FUZZ_S

.PHONY: all setup test demo bench fuzz install

all:
	cargo build --release --locked -p tlspool -p tlstunnel -p libtlspool

setup:
	scripts/setup-debian.sh

test: setup
	scripts/test.sh

demo: setup
	scripts/demo.sh

bench:
	scripts/bench.sh

fuzz:
	scripts/fuzz.sh

# `sudo make install` after `make`: root needs no Rust.
install:
	@[ -e "$${CARGO_TARGET_DIR:-target}/release/tlspool" ] || { echo "run make first" >&2; exit 1; }
	scripts/install.sh
