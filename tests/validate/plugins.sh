#!/usr/bin/env bash
# plugins.sh VALIDATE FOLDER SOURCE_DIR - plug-ins (FOLDER holds the shared libraries): right ones pass, broken ones have a verdict with a name and do
# not end the run, cheats are caught, the examples work, and the published INT-FlashAttention's causal defect is found.
set -u
validate=$1 plugins=$2 source=$3
. "$source/tests/expect.sh"
export TMPDIR=$folder OMP_NUM_THREADS=1 # threads that wait for the next small case spin, on cores that the plug-in needs
export ASAN_OPTIONS=handle_segv=0:${ASAN_OPTIONS:-} # a crash is to look like one also under a sanitizer
# The first Python that has numpy (tests/second/run).
for python in python3 /usr/bin/python3; do "$python" -c 'import numpy' 2>/dev/null && break; done

# What fails is not diagnosed here, which takes seconds each time; the diagnosis has its own part below.
run() { "$validate" run --no-diagnosis "$@"; }
right() { local kernel=$1; shift; IFA_TEST_KERNEL=$kernel "$validate" run --no-diagnosis --plugin "$plugins/plugin_right.so" "$@"; }
broken() { local fault=$1; shift; IFA_TEST_FAULT=$fault "$validate" run --no-diagnosis --plugin "$plugins/plugin_broken.so" "$@"; }
program() { local fault=$1; shift; "$validate" run --no-diagnosis --exec "python3 $source/tests/validate/plugins/broken_program.py $fault" "$@"; }

small="b=1 hq=2 hkv=1 nq=9 d=16"
mixed="b=2 hq=4 hkv=2 nq=33 nk=130 d=64 causal=0,1 lse=1"

# ---- exact: the library's own kernels through the plug-in's door
expect "exact plug-in" 0 "12 passed, 0 failed, 0 unsupported" -- right scalar --case "$mixed vscale=channel,token out=f32,f16,bf16"
expect "strides, rows, INT4, no keys" 0 "48 passed" -- right scalar --case "b=2 hq=3 hkv=3 nq=10 nk=0,20 d=24 qk=int8,int4 vscale=token,token_channel layout=bhnd,bnhd rows=0,7,59 lse=1"
expect "beside a backend" 0 "2 passed" -- right scalar --backend scalar --case "$small nk=70"
expect "nothing to compare" 3 "1 empty" -- right scalar --case "b=1 hq=1 hkv=1 nq=0 nk=9 d=8"
expect "an invalid case" 2 "1 invalid" -- right scalar --case "$small nk=70 tau=99"
expect "verbose shows the distance" 0 "relative L2 0.000e\+00  cosine 1.0000000" -- right scalar -v --case "$small nk=70"

# ---- close: right kernels of other arithmetics stay within their bounds
fills="b=1 hq=2 hkv=1 nq=9 nk=300 d=32 causal=1 lse=1 fill=normal,uniform,constant,outlier,sink,rising,equal,zeros"
for kernel in f64 flash-fp16 int-flash-full int-flash-half fp8-e4m3 fp8-e5m2 int8-e4m3; do
  expect "close: $kernel" 0 "9 passed, 0 failed" -- right $kernel --case "$fills" --case "b=1 hq=1 hkv=1 nq=2 nk=3000 d=64 out=f16"
  expect "close: $kernel, one row is another's" 1 "FAILED  $kernel" -- env IFA_TEST_SPOIL=5 IFA_TEST_KERNEL=$kernel "$validate" run --no-diagnosis --plugin "$plugins/plugin_right.so" --case "b=1 hq=2 hkv=1 nq=9 nk=300 d=32"
done
expect "a claim of more than it keeps" 1 "error / bound at most" -- right int-flash-full --claim "close q=int8/token k=int8/token v=int8/head p=f16" --case "$small nk=500"
# the bound of a sum holds whatever its order: a constant added 70001 times rounds the same way each time
expect "one term added 70001 times" 0 "1 passed" -- run --once --plugin "$plugins/plugin_example.so" --case "b=1 hq=1 hkv=1 nq=2 nk=70001 d=32 lse=1 fill=constant seed=53"
expect "weights below the least normal number" 0 "1 passed" -- run --once --plugin "$plugins/plugin_example.so" --case "b=1 hq=1 hkv=1 nq=15 nk=193 d=189 kscale=tensor sm=30 causal=1 window=2 tau=3 split=128 lse=1 vexp=110 fill=extremes seed=336"
# better than its claim: said, and there is a claim that means it
f16="q=f16 k=f16 v=f16 p=f16 o=f16" f32="b=1 hq=2 hkv=1 nq=9 nk=300 d=32 sm=3"
expect "better than its claim" 1 'it keeps "close q=f32 k=f32 v=f32": better than its claim. Claim that, or "at-least q=f16 k=f16' -- run --plugin "$plugins/plugin_example.so" --claim "close $f16" --case "$f32"
expect "numbers of a close failure" 1 "expected [-0-9.]+ +got [-0-9.]+ +error [-0-9.e]+ +bound [-0-9.e]+ +[0-9.e+]+x" -- run --plugin "$plugins/plugin_example.so" --claim "close $f16" --case "$f32"
expect "at least as good" 0 "1 passed" -- run --plugin "$plugins/plugin_example.so" --claim "at-least $f16" --case "$f32"
for kernel in flash-fp16 f64; do
  expect "at-least: $kernel" 0 "9 passed, 0 failed" -- right $kernel --claim "at-least $f16" --case "$fills" --case "b=1 hq=1 hkv=1 nq=2 nk=3000 d=64 out=f16"
  expect "at-least: $kernel, one row is another's" 1 "FAILED  $kernel" -- env IFA_TEST_SPOIL=5 IFA_TEST_KERNEL=$kernel "$validate" run --no-diagnosis --plugin "$plugins/plugin_right.so" --claim "at-least $f16" --case "b=1 hq=2 hkv=1 nq=9 nk=300 d=32"
done
expect "at-least is not worse" 1 "FAILED  int-flash-full" -- right int-flash-full --claim "at-least $f16" --case "$f32"
expect "at-least of nothing" 2 "at-least needs the formats" -- right f64 --claim "at-least p=f16"
million="b=1 hq=16 hkv=1 nq=65536 nk=8 d=4"
expect "one wrong row in a million, close" 1 "o\[b 0\]\[h 10\]\[i 44739\]\[d [0-9]\] +expected" -- env IFA_TEST_SPOIL=700099 IFA_TEST_KERNEL=flash-fp16 "$validate" run --no-diagnosis --once --plugin "$plugins/plugin_right.so" --case "$million"
expect "one wrong row in a million, exact" 1 "o differs in [1-4] of 4194304 elements" -- env IFA_TEST_SPOIL=700099 IFA_TEST_KERNEL=scalar "$validate" run --no-diagnosis --once --plugin "$plugins/plugin_right.so" --case "$million"

# ---- a library that breaks: the verdict has a name, and the next case is run
cases="$small nk=500,70"
expect "crash" 1 "ended by signal 11 \(Segmentation fault\)" -- broken segv --case "$cases"
expect "crash does not end the run" 1 "1 passed, 0 failed, 0 unsupported, 0 not available, 1 crashed" -- broken segv --case "$cases"
expect "abort" 1 "ended by signal 6" -- broken abort --case "$cases"
expect "exit" 1 "exited with code 3 before it answered" -- broken exit --case "$cases"
expect "hang" 1 "1 passed.* 1 timed out" -- broken hang --timeout 0.5 --case "$cases"
expect "nan" 1 "o differs in 1 of" -- broken nan --case "$cases"
expect "nan is not close" 1 "o\[b 0\]\[h 0\]\[i 0\]\[d 0\] is -?nan" -- broken nan --claim "close" --case "$small nk=500"
expect "status" 1 "bad data: no luck" -- broken status --case "$cases"
expect "first stage" 1 "l differs in 1 of 18 elements; it is the first stage to differ" -- broken stage --case "$small nk=500"
expect "stages that are promised and not shown" 1 "o differs in 1 of 288 elements; no stages shown" -- broken silent --case "$small nk=500"
expect "one stage shown" 1 "l differs in 1 of 18 elements; it is the first stage to differ" -- broken one-stage --case "$small nk=500"
expect "cut memory" 1 "1 bad output" -- broken cut --case "$cases"
expect "unsupported" 0 "1 passed, 0 failed, 1 unsupported" -- broken unsupported --case "$cases"
expect "crash at the start" 1 "at its start: ended by signal 6" -- broken start-abort --case "$cases"
expect "hang at the start" 1 "0 passed, .* 2 timed out" -- broken start-hang --timeout 0.3 --case "$cases"
expect "another ABI" 2 "it is made for plug-in ABI 2; this is 1" -- broken abi --case "$cases"
expect "another contract" 2 "its bits are of contract" -- broken contract --case "$cases"
expect "a claim that is none" 2 "claim: 'perfect' is not" -- broken claim --case "$cases"
expect "no plug-in" 2 "returned NULL" -- broken null --case "$cases"
expect "no such file" 2 "nowhere.so: No such file" -- run --plugin ./nowhere.so
expect "not a library" 2 "cli.sh" -- run --plugin "$source/tests/validate/cli.sh"
expect "a library that is no plug-in" 2 "no function ifa_plugin_get" -- run --plugin "$(ldd "$validate" | sed -n 's/.*libjansson[^ ]* => \([^ ]*\).*/\1/p')"
expect "bad claim word" 2 "claim: q=int9 is not one of" -- right scalar --claim "close q=int9"
expect "bad time limit" 2 "not a number of seconds" -- right scalar --timeout soon
broken segv --case "$small nk=500" --json "$folder/r.json" --junit "$folder/r.xml" --csv "$folder/r.csv" >/dev/null
check "json of a crash" python3 -c "import json; r=json.load(open('$folder/r.json')); assert r['counts']['crashed']==1 and r['results'][0]['verdict']=='crashed' and r['results'][0]['claim']=='exact'"
check "junit of a crash" python3 -c "import xml.etree.ElementTree as e; t=e.parse('$folder/r.xml').getroot(); assert t.get('failures')=='1'"

# ---- a program that breaks
expect "program: killed" 1 "ended by signal 9" -- program kill --case "$cases"
expect "program: exits" 1 "2 crashed" -- program exit --case "$cases"
expect "program: hangs" 1 "2 timed out" -- program hang --timeout 0.5 --case "$cases"
expect "program: closes its output" 1 "closed its output without an answer" -- program deaf --case "$small nk=5"
expect "program: garbage" 1 "not a JSON object: 'step 1 of 7'|not a JSON object: \"step 1 of 7\"" -- program garbage --case "$cases"
expect "program: a long line" 1 "longer than" -- program long --case "$small nk=5"
expect "program: not an object" 1 "not a JSON object" -- program array --case "$small nk=5"
expect "program: no output" 1 "it wrote no output.safetensors" -- program nothing --case "$small nk=5"
expect "program: wrong shape" 1 "o has another shape than \[1, 2, 9, D\]" -- program shape --case "$small nk=5"
expect "program: wrong type" 1 "o is f16, not f32" -- program type --case "$small nk=5"
expect "program: cut file" 1 "bad output" -- program cut --case "$small nk=5"
expect "program: no tensor o" 1 "1 bad output" -- program name --case "$small nk=5"
expect "program: a folder for a file" 1 "1 bad output" -- program folder --case "$small nk=5"
expect "program: NaN" 1 "is -?nan" -- program nan --case "$small nk=5"
expect "program: zeros" 1 "1 failed" -- program zeros --case "$small nk=5"
expect "program: a status" 1 "no luck: " -- program status --case "$small nk=5"
expect "program: exits at once" 1 "at its start: exited with code 5" -- program hello-exit --case "$cases"
expect "program: garbage at once" 1 "at its start: its answer is not a JSON object" -- program hello-garbage --case "$cases"
expect "program: a claim that is none" 2 "claim: 'perfect'" -- program claim --case "$cases"
expect "program: there is none" 1 "exited with code 127" -- run --exec "./nowhere --fast" --case "$cases"
check "no case's folder is left" test -z "$(find "$folder" -name 'ifa-plugin-*')"

# ---- cheats: a suite's beginning is enough for each
seen="b=1 hq=4 hkv=2 nq=33 nk=130 d=64 vscale=tensor,token seed=1"
cheat() { local name=$1 pattern=$2; shift 2; expect "cheat: $name" 1 "$pattern" -- run --plugin "$plugins/plugin_$name.so" --case "$seen" "$@"; }
cheat cached "right with this seed, wrong with seed=0: o differs"
cheat nothing "it wrote nothing to o"
cheat half "0 passed, 2 failed"
cheat scale "0 passed, 2 failed"
cheat heads "0 passed, 2 failed"
cheat inputs "it changed its input v_scale"
cheat outside "guard bytes around o were overwritten"
cheat late "it wrote nothing to o"
cheat forged "0 passed, [0-2] failed, 0 unsupported, 0 not available.* (crashed|bad output)|2 crashed"
cheat expected "0 passed, 2 failed"
run --plugin "$plugins/plugin_forged.so" --case "$seen" 2>/dev/null >"$folder/out"
check "what a plug-in prints is not in the report" bash -c "! grep -q '137 passed' '$folder/out'"
run --once --plugin "$plugins/plugin_timer.so" --case "$small nk=70" --json "$folder/t.json" >/dev/null 2>&1
check "cheat: timer" python3 -c "import json; assert json.load(open('$folder/t.json'))['results'][0]['seconds'] >= 0.3"

# ---- one bug, one story: bugs planted into the example in C, each named
planted() { # planted NAME EDIT: the example with one line changed
  sed "$2" "$source/examples/plugin_c/attention.c" >"$folder/$1.c"
  ! cmp -s "$folder/$1.c" "$source/examples/plugin_c/attention.c" && "${CC:-cc}" -O2 -shared -fPIC -I "$source/include" "$folder/$1.c" -o "$folder/$1.so" -lm
}
names() { # names NAME EDIT PATTERN: smoke's diagnosis holds the pattern
  check "planted: $1" planted "$1" "$2"
  expect "named: $1" 1 "$3" -- "$validate" run --once --plugin "$folder/$1.so" --json "$folder/$1.json"
}
names causal 's/p->causal ? position + 1/p->causal ? position + 2/' 'as if: causal: j <= pos \+ 1'
names gqa 's|head / (p->q_heads / p->kv_heads)|head % p->kv_heads|' 'as if: query head h reads key/value head h % Hkv'
check "what all of them share" grep -q 'all that fail have hq > hkv and hkv > 1; none of the' "$folder/out"
check "the smallest case" grep -q 'smallest: validate run --plugin .*gqa.so --once --case "b=1 hq=4 hkv=2 nq=1 nk=1 d=1 fill=normal seed=1"' "$folder/out"
check "one problem of floats is printed once" test "$(grep -c '^FAILED' "$folder/out")" = 1
check "json of a diagnosis" python3 -c "import json; d=json.load(open('$folder/gqa.json'))['diagnoses'][0]; assert d['failed'] == 16 and d['problems'] == 1 and d['looks_like'] == ['query head h reads key/value head h % Hkv'] and 'nq=1 nk=1 d=1' in d['smallest']"
names top-left 's|int64_t position = i + p->nk - p->nq;|int64_t position = i;|' 'as if: positions are aligned at the top left: pos = i'
names scale 's|score \* p->sm_scale|score / sqrtf((float)p->head_dim)|' 'as if: sm_scale is taken to be 1/sqrt\(head_dim\)'
names lse 's|\*lse = top + logf(sum)|*lse = top + log2f(sum)|' 'as if: lse adds log2\(l\) to a natural maximum'
names window 's|position - p->window + 1 > 0 ? position - p->window + 1|position - p->window > 0 ? position - p->window|' 'as if: window: j >= pos - w'
expect "an exact kernel's bug is named" 1 "as if: window: j >= pos - w" -- env IFA_TEST_FAULT=window "$validate" run --once --plugin "$plugins/plugin_broken.so" --case "b=1 hq=1 hkv=1 nq=40 nk=150 d=16 causal=1 window=0,5,70"
expect "a right kernel has none" 0 "1 passed, 0 failed, 0 unsupported, 0 not available$" -- "$validate" run --plugin "$plugins/plugin_example.so" --case "$small nk=5"
expect "what fails only when repeated" 1 "alone, run once, it passes" -- "$validate" run --plugin "$plugins/plugin_cached.so" --case "$seen"
expect "a crash made small" 1 'smallest: .*nq=1 nk=101 d=1 fill=normal seed=1"' -- env IFA_TEST_FAULT=segv "$validate" run --plugin "$plugins/plugin_broken.so" --case "$small nk=500"
expect "a program that does not start is said once" 1 "252 more failures; --verbose prints them" -- run --exec "./nowhere --fast"
expect "--max-failures" 1 "2 failed, .*; 98 cases not run" -- run --max-failures 2 --plugin "$plugins/plugin_half.so" --case "$small nk=$(seq -s, 1 50)" --case "$small nk=$(seq -s, 51 100)" --json "$folder/r.json"
check "json of what was not run" python3 -c "import json; r=json.load(open('$folder/r.json')); assert r['counts']['not run'] == 98 and len(r['results']) == 2"
expect "--fail-fast" 1 "1 failed, .*; 9 cases not run" -- run --fail-fast --plugin "$plugins/plugin_half.so" --case "$small nk=1,2,3,4,5,6,7,8,9,10"
expect "--max-failures of nothing" 2 "not a number" -- run --max-failures 0

# ---- random cases for a kernel of one's own
fuzz() { "$validate" fuzz "$@"; }
expect "fuzz: a right kernel" 0 "seed 3: 120 cases, .*passed, 0 failed" -- fuzz --plugin "$plugins/plugin_example.so" --count 120 --seed 3
expect "fuzz: a planted bug" 1 'smallest: validate run --plugin .*causal.so --once --timeout 20 --case "b=1 hq=1 hkv=1 nq=2 nk=1 d=1 causal=1 fill=normal seed=1"' -- fuzz --plugin "$folder/causal.so" --count 300 --failures 3 --json "$folder/f.json"
check "is named" grep -q 'as if: causal: j <= pos + 1' "$folder/out"
check "json of fuzz" python3 -c "import json; r=json.load(open('$folder/f.json')); assert r['counts']['failed'] == 3 and r['diagnoses'][0]['looks_like']"
expect "fuzz: a crash" 1 "smallest: .*nq=1 nk=101 d=1 .*seed=1\"" -- env IFA_TEST_FAULT=segv "$validate" fuzz --plugin "$plugins/plugin_broken.so" --count 50
expect "fuzz: a program" 1 "CRASHED  broken" -- fuzz --exec "python3 $source/tests/validate/plugins/broken_program.py exit" --count 5
expect "fuzz: no such file" 2 "nowhere.so: No such file" -- fuzz --plugin ./nowhere.so
expect "fuzz: a claim without a kernel" 2 "needs --plugin or --exec" -- fuzz --claim exact
expect "fuzz: a kernel and backends" 2 "goes without --backend" -- fuzz --plugin ./x.so --backend scalar

# ---- the examples
expect "example in C" 0 "^[1-9][0-9]+ passed, 0 failed, [0-9]+ unsupported, 0 not available" -- run --plugin "$plugins/plugin_example.so" --suite smoke
expect "example with numpy" 0 "^[1-9][0-9]+ passed, 0 failed, 0 unsupported, 0 not available$" -- run --once --exec "$python $source/examples/plugin_numpy/attention.py" --suite smoke
expect "example with numpy, started for each case" 0 "4 passed" -- run --once --exec-once "$python $source/examples/plugin_numpy/attention.py" --claim "close q=f32 k=f32 v=f32" --case "$mixed out=f32,bf16"
if "$python" -c 'import torch, triton; assert torch.cuda.is_available()' 2>/dev/null; then
  expect "example with Triton" 0 " passed, 0 failed" -- run --once --exec "$python $source/examples/plugin_triton/attention.py" --suite smoke
else
  expect "example with Triton, which is not here" 3 "not available: 'no " -- run -v --exec "$python $source/examples/plugin_triton/attention.py" --case "$small nk=5"
fi
expect "published INT-FlashAttention without a mask" 0 "3 passed, 0 failed" -- run --exec "$python $source/examples/int_flash_numpy/int_flash.py" --case "b=1 hq=2 hkv=2 nq=256 nk=256 d=64 fill=normal,uniform,sink"
expect "published INT-FlashAttention: its causal defect" 1 "o\[b 0\]\[h 0\]\[i 64\]\[d 0\] is" -- run --exec "$python $source/examples/int_flash_numpy/int_flash.py" --case "nq=65 nk=65 causal=1"
expect "its causal defect needs a second block" 0 "1 passed" -- run --exec "$python $source/examples/int_flash_numpy/int_flash.py" --case "nq=64 nk=64 causal=1"
expect "its causal defect is found by smoke" 1 "^[1-9][0-9]+ passed, [1-9][0-9]* failed, [0-9]+ unsupported, 0 not available$" -- run --once --exec "$python $source/examples/int_flash_numpy/int_flash.py" --suite smoke
expect "Algorithm 1 as the paper has it" 0 "2 passed, 0 failed" -- env INT_FLASH_CAUSAL=paper "$validate" run --exec "$python $source/examples/int_flash_numpy/int_flash.py" --case "nq=65 nk=65 causal=1 lse=0,1"

finish plugins
