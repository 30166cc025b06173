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

run() { "$validate" run "$@"; }
right() { local kernel=$1; shift; IFA_TEST_KERNEL=$kernel "$validate" run --plugin "$plugins/plugin_right.so" "$@"; }
broken() { local fault=$1; shift; IFA_TEST_FAULT=$fault "$validate" run --plugin "$plugins/plugin_broken.so" "$@"; }
program() { local fault=$1; shift; "$validate" run --exec "python3 $source/tests/validate/plugins/broken_program.py $fault" "$@"; }

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
  expect "close: $kernel, one row is another's" 1 "FAILED  $kernel" -- env IFA_TEST_SPOIL=5 IFA_TEST_KERNEL=$kernel "$validate" run --plugin "$plugins/plugin_right.so" --case "b=1 hq=2 hkv=1 nq=9 nk=300 d=32"
done
expect "a claim of more than it keeps" 1 "error / bound at most" -- right int-flash-full --claim "close q=int8/token k=int8/token v=int8/head p=f16" --case "$small nk=500"
million="b=1 hq=16 hkv=1 nq=65536 nk=8 d=4"
expect "one wrong row in a million, close" 1 "o\[b 0\]\[h 10\]\[i 44739\]\[d [0-9]\] +expected" -- env IFA_TEST_SPOIL=700099 IFA_TEST_KERNEL=flash-fp16 "$validate" run --once --plugin "$plugins/plugin_right.so" --case "$million"
expect "one wrong row in a million, exact" 1 "o differs in [1-4] of 4194304 elements" -- env IFA_TEST_SPOIL=700099 IFA_TEST_KERNEL=scalar "$validate" run --once --plugin "$plugins/plugin_right.so" --case "$million"

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
