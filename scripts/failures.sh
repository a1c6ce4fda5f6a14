#!/bin/sh
# Out of what test programs have said (files): the tests that failed with all they said; at the end each again, in a line
# or two.
set -eu
short=$(mktemp)
trap 'rm -f "$short"' EXIT
awk -v short="$short" '
    { gsub(/\033\[[0-9;]*m/, ""); sub(/\r$/, "") }
    FNR == 1 { program = ""; on = 0; python = 0 }

    # Programs of Rust, as cargo calls them.
    /^ *(Running|Doc-tests) / { program = $0; sub(/^ */, "", program); sub(/ \([^ ]*\)$/, "", program) }
    /^failures:$/ && !on { on = 1; print "\n-------- " program }
    on && /^---- .* stdout ----$/ { name = $2; told = 0 }
    on && /^(note: run with|test result: )/ { if (/^test/) on = 0; next }
    on && told == 1 { print "        " substr($0, 1, 300) >short; told = 2 }
    on && / panicked at / && !told { print "    " name "  " substr($0, index($0, "panicked at")) >short; told = 1 }
    # What has ended without a word about its tests.
    !on && /^(error|Caused by:|  process didn|    `-p )/ { print; print "    " substr($0, 1, 300) >short }

    # Those of Python: from the first of them to the end.
    /^=====+$/ { if (!python) print "\n-------- in Python"; python = 1 }
    python && /^(FAIL|ERROR): / { print "    " $0 >short }

    on || python { print }
' "$@"
echo
echo "======== in short ========"
cat "$short"
