#!/usr/bin/env bash
# ci.sh VALIDATE FOLDER SOURCE_DIR - a run in shards (FOLDER holds the plug-ins): no case is lost or run twice, the merged report is the whole run's, incomplete
# sets are refused; the scripts of tools/ci as GitHub's action and Slurm call them (Slurm's command stands in: it runs the tasks at once).
set -u
validate=$1 plugins=$2 source=$3
. "$source/tests/expect.sh"
export TMPDIR=$folder OMP_NUM_THREADS=1
mkdir "$folder/bin"
ln -s "$validate" "$folder/bin/validate"
export PATH=$folder/bin:$PATH
# The cases and verdicts of a report, sorted.
cases_of() { python3 -c 'import json, sys
for r in sorted((r["case"], r["backend"], r["verdict"], r["digest"]) for r in json.load(open(sys.argv[1]))["results"]): print(*r)' "$1"; }
same_cases() { cases_of "$1" >"$folder/a"; cases_of "$2" >"$folder/b"; [ -s "$folder/a" ] && diff "$folder/a" "$folder/b"; }

# ---- shards
expect "the whole run" 0 "253 passed" -- validate run --backend scalar --json "$folder/whole.json"
for i in 1 2 3; do expect "shard $i" 0 "8[45] passed" -- validate run --backend scalar --shard $i/3 --json "$folder/s$i.json"; done
expect "merged" 0 "^253 passed, 0 failed, 0 unsupported, 0 not available$" -- validate report --json "$folder/merged.json" --html "$folder/merged.html" "$folder"/s[123].json
check "the same cases" same_cases "$folder/whole.json" "$folder/merged.json"
expect "no difference" 0 "253 unchanged" -- validate diff "$folder/whole.json" "$folder/merged.json"
check "one page" grep -q "253 comparisons agree" "$folder/merged.html"
expect "merging what was merged" 0 "^506 passed" -- validate report --json "$folder/twice.json" "$folder/merged.json" "$folder/whole.json"
expect "a shard that is missing" 2 "shard 2 of 3 is missing" -- validate report --json "$folder/m.json" "$folder/s1.json" "$folder/s3.json"
expect "a shard that is there twice" 2 "s1.json: shard 1 of 3 is there twice" -- validate report --json "$folder/m.json" "$folder"/s[123].json "$folder/s1.json"
expect "a shard beside a whole run" 2 "whole.json: shard 0 of 0, beside shards of 3" -- validate report --json "$folder/m.json" "$folder"/s[123].json "$folder/whole.json"
for i in 1 2; do "$validate" run --backend scalar --case "nq=3 nk=3" --case "d=300" --case "nq=2 nk=3" --case "d=301" --shard $i/2 --json "$folder/i$i.json" >/dev/null; done
expect "invalid cases of all shards" 2 "2 passed, .* 2 invalid" -- validate report --json "$folder/m.json" "$folder/i1.json" "$folder/i2.json"
check "are all listed" python3 -c "import json; assert sorted(c['case'].split()[5] for c in json.load(open('$folder/m.json'))['invalid']) == ['d=300', 'd=301']"
expect "more shards than cases" 3 "0 passed" -- validate run --backend scalar --case "nq=3 nk=3" --shard 2/2
expect "one that is no run" 2 "a report of bench" -- sh -c "echo '{\"kind\": \"bench\", \"results\": []}' >'$folder/x.json'; validate report --json '$folder/m.json' '$folder/x.json'"
for bad in 0/3 4/3 3 1/0 /2 1/ a/b 1/2/3 " 1/2" 1000001/1000001; do expect "shard '$bad'" 2 "is not I/N" -- validate run --shard "$bad"; done
expect "neither" 2 "is missing" -- validate report "$folder/whole.json"

# ---- tools/ci/validate.sh, as action.yml calls it
action=$source/tools/ci/validate.sh
expect "action: a plug-in" 0 "^4 passed" -- env IFA_PLUGIN="$plugins/plugin_example.so" IFA_CASES=$'nq=3 nk=9,70\nnq=1 nk=5 causal=0,1' IFA_REPORTS="$folder/reports" IFA_ANNOTATIONS=github "$action"
for kind in json html xml; do check "action: run.$kind" test -s "$folder/reports/run.$kind"; done
expect "action: a failure is an annotation" 1 "^::error title=expected" -- env IFA_PLUGIN="$plugins/plugin_expected.so" IFA_CASES="b=1 hq=2 hkv=1 nq=9 nk=70 d=16" IFA_REPORTS="$folder/reports" IFA_ANNOTATIONS=github "$action"
expect "action: nothing to run" 2 "exactly one" -- env IFA_REPORTS="$folder/reports" "$action"
while read -r name; do check "action.yml: $name is used" grep -qF "inputs.$name" "$source/action.yml"; done < <(sed -n '/^inputs:/,/^runs:/s/^  \([a-z]*\):$/\1/p' "$source/action.yml")
while read -r variable; do check "action.yml: $variable is read" grep -q "\${$variable[:}]" "$action"; done < <(sed -n 's/^ *\(IFA_[A-Z]*\): .*/\1/p' "$source/action.yml")

# ---- tools/ci/slurm.sh
cat >"$folder/bin/sbatch" <<'END'
#!/usr/bin/env bash
array="" dependency=""
while [[ $1 == -* ]]; do
  case $1 in --array=*) array=${1#--array=1-} ;; --dependency=*) dependency=$1 ;; --output=*) output=${1#--output=} ;; esac
  shift
done
if [ -n "$array" ]; then
  failed=0
  for ((i = 1; i <= array; i++)); do SLURM_ARRAY_TASK_ID=$i SLURM_ARRAY_TASK_COUNT=$array "$@" >"${output//%a/$i}" 2>&1 || failed=1; done
  echo $failed >"$TMPDIR/array"
  echo "77;cluster"
else
  [ "$dependency" = --dependency=afterok:77 ] && [ "$(cat "$TMPDIR/array")" = 0 ] && exec "$@"
fi
END
chmod +x "$folder/bin/sbatch"
slurm=$source/tools/ci/slurm.sh
expect "slurm: four jobs and a report" 0 "^253 passed" -- env IFA_BACKEND=scalar IFA_REPORTS="$folder/slurm" "$slurm" 4 --partition=any
check "slurm: the same cases" same_cases "$folder/whole.json" "$folder/slurm/run.json"
expect "slurm: a mismatch is the last job's" 1 "failed" -- env IFA_PLUGIN="$plugins/plugin_expected.so" IFA_REPORTS="$folder/slurm" IFA_CASES="b=1 hq=2 hkv=1 nq=9,8 nk=70 d=16" "$slurm" 2
expect "slurm: what cannot be run" 1 -- env IFA_PLUGIN="$folder/no.so" IFA_REPORTS="$folder/slurm" "$slurm" 2
finish ci
