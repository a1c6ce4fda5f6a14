#!/bin/sh
# Everything that must hold: formatting, lints, and all tests, those in Python too. What failed is said again at the end.
set -eu
cd "$(dirname "$0")/.."
cargo fmt --all --check
# With the benchmarks that are left out else.
cargo clippy --workspace --all-targets --features tlspool-bench/engines,tlspool-bench/validation --locked -- -D warnings
# Tests start the programs and load the modules, so these must be there.
cargo build --workspace --locked
cargo test --workspace --locked --no-run
cargo test --workspace --locked --no-run --test vm

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# Runs a command and keeps what it says in a file of this name. Fails as it does.
kept() {
    name=$1
    shift
    { "$@" 2>&1 && code=0 || code=$?; echo "$code" >"$out/status"; } | tee "$out/$name"
    return "$(cat "$out/status")"
}

# The tests on another kernel keep one processor busy for minutes, while the others mostly wait.
cargo test --workspace --locked --test vm >"$out/vm" 2>&1 &
vm=$!
failed=""
kept rust cargo test --workspace --locked --no-fail-fast || failed="the tests"
in_python() { (cd python && python3 -m unittest discover -s tests -t .); }
kept python in_python || failed="${failed:+$failed, }those in Python"
wait "$vm" || failed="${failed:+$failed, }those on another kernel"
cat "$out/vm"
[ -n "$failed" ] || exit 0

echo
echo "======== what failed, with what it said ========"
scripts/failures.sh "$out/vm" "$out/rust" "$out/python"
echo "failed: $failed" >&2
exit 1
