#!/usr/bin/env bash
# emulated.sh VALIDATE BACKEND ARGUMENTS: the emulated GPU (tests/gpu/emulation) gives the oracle's bits on these cases,
# and shows every stage of those that are small enough to be asked.
set -euo pipefail
report=$(mktemp)
trap 'rm -f "$report"' EXIT
"$1" run --backend "$2" --json "$report" "${@:3}"
python3 - "$report" <<'PYTHON'
import json, sys
results = json.load(open(sys.argv[1]))["results"]
passed = [r for r in results if r["verdict"] == "passed"]
staged = sum(r["stages"] for r in passed)
print(f"{staged} of {len(passed)} with their stages")
sys.exit(0 if staged > 0.9 * len(passed) else f"stages of only {staged} cases were compared")
PYTHON
