#!/bin/sh
# Line coverage of a crate by its own tests: scripts/coverage.sh [CRATE], tls12 by default. Shows a line for each
# file, and the lines that no test ran with -v. Tests themselves are not counted. Needs the component llvm-tools
# of the toolchain (rustup component add llvm-tools).
set -eu
cd "$(dirname "$0")/.."
show=
[ "${1:-}" = -v ] && { show=yes; shift; }
crate=${1:-tls12}
target=${CARGO_TARGET_DIR:-target}
folder=$target/coverage
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
[ -x "$tools/llvm-cov" ] || { echo "run: rustup component add llvm-tools" >&2; exit 1; }
rm -rf "$folder"
mkdir -p "$folder"
# Only the crate itself is instrumented; what it depends on is the same as in other builds.
cat > "$folder/wrapper" <<'END'
#!/bin/sh
[ "${CARGO_PKG_NAME:-}" = "$COVERED" ] && exec "$@" -C instrument-coverage
exec "$@"
END
chmod +x "$folder/wrapper"
folder=$(cd "$folder" && pwd)
export COVERED="$crate" RUSTC_WORKSPACE_WRAPPER="$folder/wrapper" LLVM_PROFILE_FILE="$folder/%p-%m.profraw"
cargo test --quiet --locked -p "$crate" --lib --tests
objects=$(cargo test --quiet --locked -p "$crate" --lib --tests --no-run --message-format=json |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | sed '1!s/^/--object=/')
"$tools/llvm-profdata" merge --sparse "$folder"/*.profraw -o "$folder/all.profdata"
# shellcheck disable=SC2086 # a program, and a list of options
"$tools/llvm-cov" export --format=lcov --instr-profile="$folder/all.profdata" $objects \
    --sources "$PWD/crates/$crate/src" > "$folder/lcov"
rm -f "$folder"/*.profraw
python3 - "$folder/lcov" "crates/$crate/src" "$show" <<'END'
import os
import sys

counts = {}
for line in open(sys.argv[1]):
    if line.startswith("SF:"):
        lines = counts.setdefault(os.path.relpath(line[3:].strip()), {})
    elif line.startswith("DA:"):
        number, count = map(int, line[3:].split(",")[:2])
        lines[number] = lines.get(number, 0) + count
whole = ran = 0
for path, lines in sorted(counts.items()):
    if not path.startswith(sys.argv[2]) or path.endswith("tests.rs") or "/tests/" in path:
        continue
    source = open(path).read().split("\n")
    tests = next((n for n, text in enumerate(source, 1) if text == "mod tests {"), len(source) + 1)
    lines = {number: count for number, count in lines.items() if number < tests}
    hit = sum(count > 0 for count in lines.values())
    print(f"{100 * hit / max(len(lines), 1):6.1f} % of {len(lines):4} lines  {path}")
    if sys.argv[3]:
        for number, count in sorted(lines.items()):
            if not count:
                print(f"{number:8}: {source[number - 1]}")
    whole, ran = whole + len(lines), ran + hit
print(f"{100 * ran / max(whole, 1):6.1f} % of {whole:4} lines")
END
