#!/usr/bin/env bash
# mutants.sh VALIDATE KERNEL SUITE SURVIVOR...: the cases of SUITE (a file beside this one) kill the mutants of the
# emulated GPU's kernel (tests/gpu/emulation), all but those named, which need what is not emulated and must survive;
# nothing that is proved equivalent is killed.
set -euo pipefail
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$1" mutants --kernel "$2" --suite "$(dirname "$0")/$3" --repeat 1 >"$report" || [ $? = 1 ]
grep -E "^$2: [0-9]+ of [0-9]+ mutants killed" "$report"
expected=""
[ $# = 3 ] || expected=$(printf 'FAILED  %s survives: a defect of the suites\n' "${@:4}" | sort)
diff <(echo "$expected") <(echo "$(grep '^FAILED' "$report" | sort)") || { echo "other mutants than those survive, or worse"; exit 1; }
