#!/usr/bin/env bash
# mutants.sh VALIDATE SURVIVOR...: some cases of smoke kill the mutants of the emulated GPU (tests/gpu/emulation), all but those named, which need what is not emulated and must survive;
# nothing that is proved equivalent is killed.
set -euo pipefail
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$1" mutants --kernel cuda-sm80 --suite "$(dirname "$0")/mutants.txt" --repeat 1 >"$report" || [ $? = 1 ]
grep -E '^cuda-sm80: [0-9]+ of [0-9]+ mutants killed' "$report"
expected=$(printf 'FAILED  %s survives: a defect of the suites\n' "${@:2}" | sort)
diff <(echo "$expected") <(grep '^FAILED' "$report" | sort) || { echo "other mutants than those survive, or worse"; exit 1; }
