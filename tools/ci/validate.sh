#!/usr/bin/env bash
# validate.sh - one run of `validate` in continuous integration: what action.yml calls. By environment:
#   IFA_PLUGIN, IFA_EXEC, IFA_BACKEND   the kernel: a shared library, a command, or backends of this build (one of the three)
#   IFA_CLAIM                           what it promises, if not what it says itself
#   IFA_SUITE, IFA_CASES                suites, blank between them (smoke, where there are no cases either); lines of cases
#   IFA_SHARD                           I/N: one of N machines
#   IFA_REPORTS                         the folder for run.json, run.html and run.xml (with a shard: run-I.json ...)
#   IFA_ANNOTATIONS                     github: a line for each failure that GitHub shows at the check
# The exit code is that of `validate run`. `validate report --json run.json --html run.html run-*.json` puts shards together.
set -euo pipefail
arguments=()
[ -z "${IFA_PLUGIN:-}" ] || arguments+=(--plugin "$IFA_PLUGIN")
[ -z "${IFA_EXEC:-}" ] || arguments+=(--exec "$IFA_EXEC")
[ -z "${IFA_BACKEND:-}" ] || arguments+=(--backend "$IFA_BACKEND")
[ ${#arguments[@]} = 2 ] || { echo "validate.sh: exactly one of plugin, exec and backend must be given" >&2; exit 2; }
[ -z "${IFA_CLAIM:-}" ] || arguments+=(--claim "$IFA_CLAIM")
for suite in ${IFA_SUITE:-}; do arguments+=(--suite "$suite"); done
while IFS= read -r line; do [ -z "${line// /}" ] || arguments+=(--case "$line"); done <<<"${IFA_CASES:-}"
name=run
if [ -n "${IFA_SHARD:-}" ]; then
  arguments+=(--shard "$IFA_SHARD")
  name=run-${IFA_SHARD%%/*}
fi
[ -z "${IFA_ANNOTATIONS:-}" ] || arguments+=(--annotations "$IFA_ANNOTATIONS")
reports=${IFA_REPORTS:-validate-reports}
mkdir -p "$reports"
exec validate run "${arguments[@]}" --json "$reports/$name.json" --html "$reports/$name.html" --junit "$reports/$name.xml"
