#!/bin/sh
# Everything that must hold: formatting, lints, and all tests, those in Python too.
set -eu
cd "$(dirname "$0")/.."
cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# Tests start the programs and load the modules, so these must be there.
cargo build --workspace --locked
cargo test --workspace --locked --no-run
cargo test --workspace --locked --no-run --test vm

# The tests on another kernel keep one processor busy for minutes, while the others mostly wait.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --workspace --locked --test vm >"$log" 2>&1 &
vm=$!
failed=""
cargo test --workspace --locked --no-fail-fast || failed="the tests"
(cd python && python3 -m unittest discover -s tests -t .) || failed="${failed:+$failed, }those in Python"
wait "$vm" || failed="${failed:+$failed, }those on another kernel"
cat "$log"
[ -z "$failed" ] || { echo "failed: $failed" >&2; exit 1; }
