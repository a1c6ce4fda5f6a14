#!/bin/sh
# Runs every fuzz target for FUZZ_S seconds (60). Needs a nightly toolchain and cargo-fuzz.
set -eu
cd "$(dirname "$0")/.."
[ -d fuzz ] || { echo "fuzz: there are no targets yet" >&2; exit 1; }
command -v cargo-fuzz >/dev/null || { echo "fuzz: cargo install cargo-fuzz" >&2; exit 1; }
for target in $(cargo +nightly fuzz list); do
    echo "fuzz: $target"
    cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_S:-60}"
done
