#!/usr/bin/env bash
# A run of `validate` as an array of Slurm jobs, each a shard, and a last job that puts the reports together:
#
#     IFA_PLUGIN=./libmine.so IFA_SUITE=all tools/ci/slurm.sh 8 [SBATCH OPTION...]      # from anywhere; `validate` on the path
#
# The options are those of the shards' jobs (--gres=gpu:1, --partition=...). Settings: validate.sh beside this. Reports lie in IFA_REPORTS (validate-reports);
# the last job's exit code is that of the whole run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

case ${1:-} in
  shard) # a task of the array
    export IFA_SHARD=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
    code=0
    "${IFA_CI_FOLDER:?}/validate.sh" || code=$?
    [ $code != 2 ] # a mismatch is in the report; what could not be run at all fails here, and the last job does not start
    ;;
  merge)
    reports=$IFA_REPORTS
    exec validate report --json "$reports/run.json" --html "$reports/run.html" "$reports"/run-*.json
    ;;
  [1-9]*)
    shards=$1; shift
    export IFA_CI_FOLDER=$here IFA_REPORTS=${IFA_REPORTS:-validate-reports}
    mkdir -p "$IFA_REPORTS"
    rm -f "$IFA_REPORTS"/run-*.json # of an earlier run
    job=$(sbatch --parsable --export=ALL --job-name=validate --array="1-$shards" --output="$IFA_REPORTS/%a.txt" "$@" "$here/slurm.sh" shard)
    sbatch --export=ALL --job-name=validate-report --dependency="afterok:${job%%;*}" --output="$IFA_REPORTS/report.txt" "$here/slurm.sh" merge
    ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
