#!/bin/sh
# Everything that must hold: formatting, lints, and all tests, those in Python too.
set -eu
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# Tests start the programs and load the modules, so these must be there.
cargo build --workspace --locked
cargo test --workspace --locked
(cd python && python3 -m unittest discover -s tests -t .)
