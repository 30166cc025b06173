#!/usr/bin/env bash
# cli.sh VALIDATE VALIDATE_BROKEN GOLDEN SOURCE_DIR - the command lines, files and exit codes that others script against.
set -u
validate=$1 broken=$2 golden=$3 source=$4
. "$source/tests/expect.sh"

one="b=1 hq=2 hkv=1 nq=9 nk=70 d=16"
"$validate" list >"$folder/list" 2>&1
smoke=$(awk '$1 == "smoke" { print $2 }' "$folder/list") # its cases
has_openmp=$(grep -A1 '^  openmp ' "$folder/list" | grep -c '  available$')

# ---- run: exit codes and counts
expect "help" 0 "validate COMMAND" -- "$validate" --help
expect "run --help" 0 "--suite" -- "$validate" run --help
expect "no command" 2 "usage" -- "$validate"
expect "unknown command" 2 "no command 'frobnicate'" -- "$validate" frobnicate
expect "unknown option" 2 -- "$validate" run --frobnicate
expect "one case" 0 "1 passed, 0 failed, 0 unsupported, 0 not available" -- "$validate" run --backend scalar --case "$one"
expect "lists multiply" 0 "6 passed, 0 failed" -- "$validate" run --backend scalar --case "$one vscale=channel,token tau=0,2,inf"
expect "unknown backend" 2 "there is no backend 'gpu9'" -- "$validate" run --backend gpu9 --case "$one"
expect "bad key" 2 "unknown key 'frob'" -- "$validate" run --case "frob=1"
expect "bad value" 2 "fill=blue is not a fill" -- "$validate" run --case "fill=blue"
expect "key twice" 2 "given twice" -- "$validate" run --case "d=1 d=2"
expect "invalid problem" 2 "head_dim is 300; it must be 1 .. 256" -- "$validate" run --backend scalar --case "d=300"
expect "invalid is counted" 2 "1 passed, 0 failed, 0 unsupported, 0 not available, 1 invalid" -- "$validate" run --backend scalar --case "d=16,300"
expect "unknown suite" 2 "no suite and no file" -- "$validate" run --suite nowhere
printf '# mine\n%s\nnot a case\n' "$one" >"$folder/suite.txt"
expect "suite file names its bad line" 2 "suite.txt:3: 'not' is not of the form key=value" -- "$validate" run --suite "$folder/suite.txt"
printf '# mine\n%s # a comment\n\ninclude smoke\n' "$one" >"$folder/suite.txt"
expect "suite file" 0 "$((smoke + 1)) passed" -- "$validate" run --backend scalar --suite "$folder/suite.txt"
printf '' >"$folder/empty.txt"
expect "nothing to compare is not a pass" 3 "0 passed, 0 failed, 0 unsupported, 0 not available, 1 empty" -- "$validate" run --backend scalar --case "nq=0 nk=9"
expect "nothing executed" 3 "0 passed, 0 failed" -- "$validate" run --suite "$folder/empty.txt"
expect "seed" 0 "seed=77" -- "$validate" run -v --seed 77 --backend scalar --case "$one"
expect "seed too large" 2 "not a number" -- "$validate" run --seed 99999999999999999999
expect "bad seed" 2 -- "$validate" run --seed x
expect "verbose prints cases" 0 "^passed  scalar" -- "$validate" run -v --backend scalar --case "$one"
check "quiet in a pipe" test -z "$("$validate" run --backend scalar --case "$one" 2>&1 >/dev/null)"
if [ "$has_openmp" = 0 ]; then
  expect "absent backend alone" 3 "0 passed, 0 failed, 0 unsupported, 1 not available" -- "$validate" run --backend openmp --case "$one"
  expect "absent backend beside another" 0 "1 passed, 0 failed, 0 unsupported, 1 not available" -- "$validate" run --backend scalar,openmp --case "$one"
else
  expect "two backends" 0 "2 passed" -- "$validate" run --backend scalar,openmp --case "$one"
fi

# ---- every printed case can be pasted back
"$validate" run -v --backend scalar --suite smoke | sed -n 's/^passed  scalar  [0-9.]* s  //p' >"$folder/printed.txt"
check "printed cases" test "$(wc -l <"$folder/printed.txt")" = "$smoke"
"$validate" run -v --backend scalar --suite "$folder/printed.txt" | sed -n 's/^passed  scalar  [0-9.]* s  //p' >"$folder/again.txt"
check "pasted back" cmp "$folder/printed.txt" "$folder/again.txt"

# ---- reports
expect "reports written" 0 -- "$validate" run --backend scalar --case "b=1 hq=1 nq=3 nk=5 d=8,16" --json "$folder/r.json" --junit "$folder/r.xml" --csv "$folder/r.csv"
check "json is json" python3 -c "import json,sys; r=json.load(open('$folder/r.json')); assert r['counts']['passed']==2 and r['contract']==3 and len(r['results'])==2"
check "junit is xml" python3 -c "import xml.etree.ElementTree as e; t=e.parse('$folder/r.xml').getroot(); assert t.get('tests')=='2' and len(list(t))==2"
check "csv is csv" python3 -c "import csv; r=list(csv.DictReader(open('$folder/r.csv',newline=''))); assert len(r)==2 and r[0]['verdict']=='passed'"
expect "report to nowhere" 2 "cannot|No such" -- "$validate" run --backend scalar --case "$one" --json "$folder/no/r.json"

# ---- a wrong kernel
if [ "$has_openmp" = 1 ]; then
  export IFA_BROKEN=unit
  expect "mismatch" 1 "unit differs" -- "$broken" run --backend openmp --case "$one" --json "$folder/b.json" --junit "$folder/b.xml"
  expect "repro command" 1 "repeat: validate run --backend openmp --case" -- "$broken" run --backend openmp --case "$one"
  expect "places in hex" 1 "unit\[b 0\]\[h 0\]\[i 0\]\[tile 0\] +expected [0-9a-f]{8}  got [0-9a-f]{8}" -- "$broken" run --backend openmp --case "$one"
  check "json of a failure" python3 -c "import json; r=json.load(open('$folder/b.json')); f=r['results'][0]; assert r['counts']['failed']==1 and f['stage']=='unit' and f['places']"
  check "junit of a failure" python3 -c "import xml.etree.ElementTree as e; t=e.parse('$folder/b.xml').getroot(); assert t.get('failures')=='1'"
  expect "mismatch outweighs a report that is lost" 1 "No space left" -- "$broken" run --backend openmp --case "$one" --json /dev/full
  IFA_BROKEN=bit expect "one bit" 1 "o differs in 1 of 288 elements" -- "$broken" run --backend openmp --case "$one"
  IFA_BROKEN=overrun expect "overrun" 1 "guard bytes around o|belongs to no computed row" -- "$broken" run --backend openmp --case "$one"
  IFA_BROKEN=oracle expect "an oracle that overruns" 1 "the oracle's own run: " -- "$broken" run --backend scalar --case "$one"
  IFA_BROKEN=status expect "backend error" 1 "an injected failure" -- "$broken" run --backend openmp --case "$one"
  expect "scalar is not affected" 0 -- "$broken" run --backend scalar --case "$one"
  IFA_BROKEN=bit expect "bench refuses a wrong backend" 1 "is wrong, so it is not measured" -- "$broken" bench --repeat 1 --case "$one"
  unset IFA_BROKEN
fi

# ---- accuracy: the tables, and every metric in the files
expect "accuracy" 0 "^INT8, V token \(accurate\) +[0-9.]+" -- "$validate" accuracy --table fills --tokens 96 --dim 16 --rows 4 --json "$folder/a.json" --csv "$folder/a.csv"
check "accuracy's files agree" python3 - "$folder/a.json" "$folder/a.csv" <<'P'
import csv, json, sys
j = json.load(open(sys.argv[1])); c = list(csv.DictReader(open(sys.argv[2], newline='')))
columns = {r['data'] for r in j['results']}
assert j['kind'] == 'accuracy' and {'normal', 'centred', 'real L5'} <= columns and len(c) == len(j['results']) == 23 * len(columns)
for a, b in zip(j['results'], c):
    assert a['algorithm'] == b['algorithm'] and abs(a['relative_l2'] - float(b['relative_l2'])) <= 1e-8 * a['relative_l2']
cells = {(r['data'], r['algorithm']): r for r in j['results']}
assert cells['normal', 'flash-fp16']['relative_l2'] < cells['normal', 'INT8, V channel']['relative_l2'] < cells['normal', 'INT4, V channel']['relative_l2'] < 1
assert all(r['worst_row'] >= r['relative_l2'] * 0.99 and r['cosine'] <= 1.0000001 for r in j['results'])
P
expect "the paper's table" 0 "^  published +4.05" -- "$validate" accuracy --table paper --paper-tokens 1024 --paper-rows 4
expect "accuracy: unknown metric" 2 "is not l2" -- "$validate" accuracy --metric blue

# ---- attend, quantize, export
real=$source/data/real/minilm_layer5.safetensors
expect "attend" 0 "relative L2 .* cosine 0.999" -- "$validate" attend --input "$real" --output "$folder/o.safetensors" --backend scalar vscale=token lse=1
expect "quantize" 0 "6 tensors" -- "$validate" quantize --input "$real" --output "$folder/q.safetensors" vscale=token
expect "attend on int8 tensors" 0 "the same integers and scales" -- "$validate" attend --input "$folder/q.safetensors" --output "$folder/o2.safetensors" --backend scalar vscale=token lse=1
check "same output from floats and from their quantized form" python3 - "$folder/o.safetensors" "$folder/o2.safetensors" <<'P'
import json, struct, sys
def tensors(path):
    raw = open(path, 'rb').read(); n = struct.unpack('<Q', raw[:8])[0]; head = json.loads(raw[8:8 + n]); head.pop('__metadata__')
    return {k: (v['dtype'], v['shape'], raw[8 + n:][v['data_offsets'][0]:v['data_offsets'][1]]) for k, v in head.items()}
a, b = tensors(sys.argv[1]), tensors(sys.argv[2])
assert a == b and set(a) == {'o', 'lse'} and a['o'][1] == [1, 12, 512, 32]
P
expect "attend with the wrong scale choice" 2 "v_scale has" -- "$validate" attend --input "$folder/q.safetensors" --output "$folder/o3.safetensors" vscale=channel
check "nothing half written" test ! -e "$folder/o3.safetensors"
expect "attend refuses what the file decides" 2 "nq: the file decides" -- "$validate" attend --input "$real" --output "$folder/o3.safetensors" nq=3
expect "quantize twice" 2 "INT8 already" -- "$validate" quantize --input "$folder/q.safetensors" --output "$folder/o3.safetensors"
expect "attend does not smooth what is quantized" 2 "quantized already" -- "$validate" attend --input "$folder/q.safetensors" --output "$folder/o3.safetensors" vscale=token smooth=1
"$validate" quantize --input "$real" --output "$folder/q2.safetensors" vscale=token_channel smooth=1 >/dev/null
"$validate" attend --input "$folder/q2.safetensors" --output "$folder/o4.safetensors" vscale=token_channel >"$folder/near"
python3 - "$folder" <<'P' # the same with V's scales moved apart or together: what binary32 cannot hold between integers and output
import array, json, struct, sys
raw = open(f'{sys.argv[1]}/q2.safetensors', 'rb').read(); n = struct.unpack('<Q', raw[:8])[0]; head = json.loads(raw[8:8 + n])
for name, token, channel in ('apart', 2.0**95, 2.0**-95), ('large', 2.0**90, 2.0**80), ('tiny', 2.0**-80, 2.0**-80):
    data = bytearray(raw)
    for key, factor in ('v_scale', token), ('v_channel_scale', channel):
        a, b = (8 + n + x for x in head[key]['data_offsets'])
        data[a:b] = array.array('f', (x * factor for x in array.array('f', raw[a:b]))).tobytes()
    open(f'{sys.argv[1]}/{name}.safetensors', 'wb').write(data)
P
expect "V's scales of a token and a channel far apart" 0 "$(grep -o 'relative L2 .*  largest' "$folder/near" | sed 's/[.+]/\\&/g')" -- "$validate" attend --input "$folder/apart.safetensors" --output "$folder/o3.safetensors" vscale=token_channel
expect "outputs beyond binary32 are infinite, no refusal" 0 "relative L2 -?(inf|nan)" -- "$validate" attend --input "$folder/large.safetensors" --output "$folder/o3.safetensors" vscale=token_channel
expect "values below binary32" 0 "relative L2 1\.000e\+00" -- "$validate" attend --input "$folder/tiny.safetensors" --output "$folder/o3.safetensors" vscale=token_channel
rm "$folder/o3.safetensors"
expect "attend refuses -0 for a file's scales" 2 "minus_zero: the file decides" -- "$validate" attend --input "$real" --output "$folder/o3.safetensors" minus_zero=1
cp "$real" "$folder/a b.safetensors"
expect "a path with a blank" 0 "relative L2" -- "$validate" attend --input "$folder/a b.safetensors" --output "$folder/o4.safetensors"
expect "attend without a file" 2 "nowhere.safetensors" -- "$validate" attend --input "$folder/nowhere.safetensors" --output "$folder/o3.safetensors"
head -c 1000 "$real" >"$folder/cut.safetensors"
expect "attend on a truncated file" 2 "cut.safetensors" -- "$validate" attend --input "$folder/cut.safetensors" --output "$folder/o3.safetensors"
expect "attend without output" 2 "needed" -- "$validate" attend --input "$real"
python3 - "$folder" <<'P' # q, k, v of 2 heads, 70 tokens and 8 channels
import json, struct, sys
def write(name, k):
    data = [struct.pack(f'<{len(x)}f', *x) for x in (good, k, good)]; size = len(data[0])
    head = json.dumps({n: {'dtype': 'F32', 'shape': [1, 2, 70, 8], 'data_offsets': [i * size, (i + 1) * size]} for i, n in enumerate('qkv')}).encode()
    open(f'{sys.argv[1]}/{name}.safetensors', 'wb').write(struct.pack('<Q', len(head)) + head + b''.join(data))
good = [i * i * 37 % 101 / 50 - 1 for i in range(2 * 70 * 8)]
write('small', good[::-1])
write('nan', good[:5] + [float('nan')] + good[6:])
P
expect "NaN in the input" 2 "is -?nan; elements must be finite" -- "$validate" attend --input "$folder/nan.safetensors" --output "$folder/o3.safetensors"
expect "run on a file" 0 "16 passed" -- "$validate" run --backend scalar --input "$folder/small.safetensors"
expect "run on a file with case keys" 0 "2 passed" -- "$validate" run --backend scalar --input "$real" --case "vscale=channel,token rows=4"
expect "sizes beside a file" 2 "nq: the input file decides it" -- "$validate" run --backend scalar --case "input=minilm_layer5 nq=3"
expect "a suite's sizes beside a file" 2 "the input file decides it" -- "$validate" run --backend scalar --input "$real" --suite smoke
expect "export" 0 -- "$validate" export --case "$one lse=1" --output "$folder/e.safetensors"
expect "export of nonsense" 2 "rows=3" -- "$validate" export --case "$one rows=3" --output "$folder/e2.safetensors"

# ---- more threads than any system makes
million=(env OMP_NUM_THREADS=1000000)
expect "a million threads" 0 "1 passed, 0 failed" -- "${million[@]}" "$validate" run --backend cpu --case "nq=200 nk=300 d=64 hq=4 hkv=4"
expect "a million threads for the references" 0 -- "${million[@]}" "$validate" accuracy -n 256 -r 16

# ---- list, explain, bench
expect "list" 0 "smoke +[1-9][0-9]+ cases" -- "$validate" list
check "list shows the steps" grep -A1 "^  cuda-step-mma" "$folder/out"
expect "explain" 0 "key tiles +16" -- "$validate" explain "b=1 hq=8 hkv=2 nq=128 nk=1000 d=128 qk=int8 v=int8 qscale=token kscale=token vscale=token tau=4 causal=1 fill=normal seed=7"
expect "explain of nonsense" 2 "unknown key" -- "$validate" explain "frob=1"
expect "bench on bad input" 2 "octaves" -- "$validate" bench --repeat 1 --case "sm=1000000 fill=outlier nq=4 nk=40"
expect "bench" 0 "Gop/s" -- "$validate" bench --repeat 1 --case "$one"

# ---- mutants
"$validate" mutants --list >"$folder/mutants.txt" 2>&1
check "mutants are listed" test "$(grep -c '^  [a-z0-9-]' "$folder/mutants.txt")" -ge 60
# each fault of a catalogue lies somewhere in its kernel, and nothing else does (that no name is given twice is the compiler's to say)
faults_of() { grep -ohE "$1" "${@:2}" | sed -E 's/.*\(//; s/[,)].*//' | grep -vxE 'name|fault_name' | sort -u; } # faults_of PATTERN FILE...
check "the CPU's faults" diff <(faults_of '^  [XE]\([a-z0-9_]+,' "$source/validate/mutants/catalogue.h") <(faults_of 'FAULT\([a-z0-9_]+\)' "$source"/validate/mutants/{kernel,operands,output}.c)
check "the GPU's faults" diff <(faults_of '^  [XRE]\([a-z0-9_]+,' "$source/gpu/mutants/faults.h") <(faults_of 'FAULT\([a-z0-9_]+\)' <(sed -n 's/^+ //p' "$source/gpu/mutants/faults.txt"))
check "those of sm90" diff <(faults_of '^  [XRE]\([a-z0-9_]+,' "$source/gpu/mutants/faults_sm90.h") <(faults_of 'FAULT\([a-z0-9_]+\)' <(sed -n 's/^+ //p' "$source/gpu/mutants/faults_sm90.txt"))
check "the product's GPU sources are seen" grep -rq __global__ "$source/gpu" --include=*.cuh --exclude-dir=mutants
check "no fault in the product" test -z "$(grep -rl FAULT "$source/gpu" --include=*.cuh --include=*.cu --include=*.h --exclude-dir=mutants)"
mkdir -p "$folder/gpu/parts"
sed -n '/^- __device__ .* quad_sum/,/^+ .*FAULT/p' "$source/gpu/mutants/faults.txt" | sed '1i @ parts/warp.cuh' >"$folder/edits.txt"
sed 's/x += __shfl_xor_sync(~0u, x, 1)/x += __shfl_xor_sync(~0u, x, 3)/' "$source/gpu/parts/warp.cuh" >"$folder/gpu/parts/warp.cuh"
expect "a fault without its place" 1 "FAULT.quad_sum_of_two_lanes. has lost its place" -- cmake -DEDITS="$folder/edits.txt" -DFROM="$folder/gpu" \
  -DTO="$folder/edited" -DFILES=parts/warp.cuh -P "$source/gpu/mutants/apply.cmake"
check "no copy without it" test ! -e "$folder/edited"
# ... which no other layout takes away
edited=$(sed -n 's/^@ //p' "$source/gpu/mutants/faults.txt" "$source/gpu/mutants/faults_sm90.txt" | sort -u)
apply_all() { # apply_all FROM TO
  cmake "-DEDITS=faults.txt faults_sm90.txt" -DFROM="$1" -DTO="$2" "-DFILES=$(tr '\n' ' ' <<<"$edited")" -P "$source/gpu/mutants/apply.cmake"
}
mkdir -p "$folder"/laid_out/{parts,sm80,sm90}
for file in $edited; do
  sed -E '/^ *#/!{ s/([;{,(]) ?/\1\n   /g; s/ ([-+*<>=]+) /\n \1 /g; }' "$source/gpu/$file" >"$folder/laid_out/$file"
done
expect "faults as laid out" 0 -- apply_all "$source/gpu" "$folder/edited1/faults"
expect "faults in another layout" 0 -- apply_all "$folder/laid_out" "$folder/edited2/faults"
check "the same faults" test "$(cd "$folder/edited1/faults" && find . -type f | sort | xargs cat | tr -d ' \n' | sha256sum)" = "$(cd "$folder/edited2/faults" && find . -type f | sort | xargs cat | tr -d ' \n' | sha256sum)"
sed 's/^ *__syncthreads();/&\n__syncthreads ( );/' "$source/gpu/parts/pack.cuh" >"$folder/gpu/parts/pack.cuh"
printf '%s\n' '@ parts/pack.cuh' '- __syncthreads();' '+ FAULT(pack_barrier_missing);' >"$folder/edits.txt"
expect "a place that is there twice" 1 "FAULT.pack_barrier_missing.: its place in gpu/parts/pack.cuh" -- cmake -DEDITS="$folder/edits.txt" -DFROM="$folder/gpu" \
  -DTO="$folder/edited" -DFILES=parts/pack.cuh -P "$source/gpu/mutants/apply.cmake"
check "those of attention in floats" diff <(faults_of '^  F\([a-z0-9_]+,' "$source/validate/mutants/flash_faults.h") <(faults_of 'FAULT\([a-z0-9_]+\)' "$source/validate/mutants/flash.c")
check "60 faults of fp16 attention" test "$(grep -cE '^  f16-' "$folder/mutants.txt")" -ge 60
check "60 faults of FP8 attention" test "$(grep -cE '^  fp8-' "$folder/mutants.txt")" -ge 60
check "60 faults of the CPU" test "$(faults_of '^  [XE]\([a-z0-9_]+,' "$source/validate/mutants/catalogue.h" | wc -l)" -ge 60
check "40 faults of sm90" test "$(faults_of '^  [XRE]\([a-z0-9_]+,' "$source/gpu/mutants/faults_sm90.h" | wc -l)" -ge 40
check "30 faults of the GPU" test "$(faults_of '^  [XRE]\([a-z0-9_]+,' "$source/gpu/mutants/faults.h" | wc -l)" -ge 30
printf '%s\n' "$one lse=1" >"$folder/one.txt"
expect "a mutant killed" 0 "1 of 1 mutants killed" -- "$validate" mutants --suite "$folder/one.txt" --only last-key-dropped --json "$folder/m.json"
check "json of mutants" python3 -c "import json; r=json.load(open('$folder/m.json')); m=r['mutants'][0]; assert r['passed'] and m['killed'] and m['killed_by']['one.txt'].startswith('b=1')"
expect "a mutant survives" 1 "causal-strict survives" -- "$validate" mutants --suite "$folder/one.txt" --only causal-strict,last-key-dropped
expect "a fault smaller than rounding" 0 "flash-f16: 1 of 1 mutants killed, 1 more smaller than rounding" -- "$validate" mutants --suite "$folder/one.txt" --only f16-last-key-dropped,f16-l-epsilon
expect "a suite that is not tried" 0 "killed +\.$" -- "$validate" mutants --quick --suite "$folder/one.txt" --suite smoke --only last-key-dropped --json "$folder/m.json"
check "json of a suite that is not tried" python3 -c "import json; r=json.load(open('$folder/m.json')); m=r['mutants'][0]; assert m['not_tried'] == ['smoke'] and list(m['killed_by']) == ['one.txt'] and r['suites']['smoke']['tried'] == 0 and r['suites']['one.txt']['tried'] == 1"
"$validate" report --html "$folder/m.html" "$folder/m.json"
check "its page" bash -c "grep -q 'not tried' '$folder/m.html' && ! grep -qE '>(survives|not noticed)<' '$folder/m.html'"
expect "an equivalent mutant" 0 "1 more proved equivalent" -- "$validate" mutants --suite "$folder/one.txt" --only merge-not-fused,last-key-dropped
has_gpu=$(grep -A1 '^  cuda-sm80 ' "$folder/list" | grep -c '  available$')
if [ "$has_gpu" = 0 ]; then
  expect "mutants of an absent GPU" 3 "not available: cuda-sm80: " -- "$validate" mutants --suite "$folder/one.txt" --kernel cuda-sm80
  expect "an absent GPU beside the CPU" 0 "not available: cuda-sm80: " -- "$validate" mutants --suite "$folder/one.txt" --only last-key-dropped,quad-sum-of-two-lanes --json "$folder/m.json"
  check "json of an absent GPU" python3 -c "import json; r=json.load(open('$folder/m.json')); assert r['passed'] and r['mutants_that_count'] == 1 and not r['kernels']['cuda-sm80']['available']"
  expect "an absent GPU beside a survivor" 1 "not available: cuda-sm80: " -- "$validate" mutants --suite "$folder/one.txt" --only causal-strict,quad-sum-of-two-lanes
else
  expect "a mutant of the GPU" 0 "cuda-sm80: 1 of 1 mutants killed" -- "$validate" mutants --suite "$folder/one.txt" --only quad-sum-of-two-lanes
fi
expect "a mutant of another kernel" 2 "is a mutant of cuda-sm80" -- "$validate" mutants --kernel cpu --only quad-sum-of-two-lanes
expect "no such kernel" 2 "there is no kernel 'gpu'" -- "$validate" mutants --kernel gpu
expect "mutants of one kernel listed" 0 "^cuda-sm80: pipeline" -- "$validate" mutants --kernel cuda-sm80 --list
expect "those of sm90 listed" 0 "^cuda-sm90: pipeline" -- "$validate" mutants --kernel cuda-sm90 --list
expect "no such mutant" 2 "no mutant 'nonsense'" -- "$validate" mutants --only nonsense
expect "mutants of no suite" 2 "no suite and no file" -- "$validate" mutants --suite nowhere

# ---- fuzz
expect "fuzz" 0 "30 cases, 5 of them made invalid" -- "$validate" fuzz --count 30 --seed 3 --backend scalar --json "$folder/f.json"
check "json of fuzz" python3 -c "import json; r=json.load(open('$folder/f.json')); assert r['valid']==25 and r['invalid']==5 and not r['failures'] and r['backends']['scalar']['passed']>=20"
expect "fuzz without a backend that is there" 2 "no backend 'gpu9'" -- "$validate" fuzz --backend gpu9
expect "fuzz: no such violation" 2 "no violation 'x'" -- "$validate" fuzz --violation x --case "$one"
expect "a violation by name" 0 "1 refused" -- "$validate" fuzz --backend scalar --violation q-scale-nan --case "$one"
expect "an invalid case is no case for fuzz" 2 "head_dim is 300" -- "$validate" fuzz --case "d=300"
if [ "$has_openmp" = 1 ]; then
  export IFA_BROKEN=causal-100
  expect "fuzz finds and shrinks" 1 "validate run --backend openmp --case \"b=1 hq=1 hkv=1 nq=1 nk=100 d=1 causal=1 fill=normal seed=1\"" -- \
    "$broken" fuzz --backend openmp --count 200 --json "$folder/f.json"
  check "json of a finding" python3 -c "import json; f=json.load(open('$folder/f.json'))['failures'][0]; assert f['kind']=='mismatch' and f['backend']=='openmp' and 'nk=100 d=1' in f['case']"
  expect "its command fails too" 1 "1 failed" -- "$broken" run --backend openmp --case "b=1 hq=1 hkv=1 nq=1 nk=100 d=1 causal=1"
  IFA_BROKEN=crash expect "a crash is found" 1 "ended by signal 11" -- "$broken" fuzz --backend scalar,openmp --count 200
  IFA_BROKEN=crash expect "a crash, smallest" 1 "repeat: validate fuzz --backend openmp --case \"b=1 hq=1 hkv=1 nq=1 nk=40 d=1 " -- "$broken" fuzz --backend openmp --count 200
  IFA_BROKEN=hang expect "a hang is found" 1 "no answer within 0.5 s" -- "$broken" fuzz --backend openmp --limit 0.5 --case "$one"
  IFA_BROKEN=accepts expect "an invalid call is accepted" 1 "answered 'ok'" -- "$broken" fuzz --backend openmp --violation k-scale-negative --case "$one"
  IFA_BROKEN=scribbles expect "a refused call writes" 1 "refused, but something was written" -- "$broken" fuzz --backend openmp --violation k-scale-negative --case "$one"
  unset IFA_BROKEN
fi

# ---- golden
expect "golden of another contract" 2 "not of contract" -- "$golden" check scalar "$folder/suite.txt"
sed '2s/^[0-9a-f]\{16\} [0-9a-f]/0000000000000000 0/' "$source/data/golden/smoke.txt" >"$folder/golden.txt"
expect "golden difference" 1 "DIFFERS scalar: b=1" -- "$golden" check scalar "$folder/golden.txt"
mkdir -p "$folder/cut"; head -20 "$source/data/golden/smoke.txt" >"$folder/cut/smoke.txt"
expect "a cut golden file" 2 "20 cases|19 cases|has 19" -- "$golden" check scalar "$folder/cut/smoke.txt"
sed '3d' "$source/data/golden/smoke.txt" >"$folder/cut/smoke.txt"
expect "a golden file without one of its cases" 2 "is not the suite's" -- "$golden" check scalar "$folder/cut/smoke.txt"
expect "golden with no such backend" 2 "no backend" -- "$golden" check nosuch "$source/data/golden/smoke.txt"
expect "golden usage" 2 "usage" -- "$golden"

# ---- records
if [ "$has_openmp" = 1 ]; then
  printf '%s\n%s\n' "$one" "$one vscale=token" >"$folder/two.txt"
  expect "record without a benchmark" 0 "2 written" -- "$validate" record --backend openmp --suite "$folder/two.txt" --commit abc --output "$folder/plain.rec"
  expect "it is checked, and says what it lacks" 0 "no benchmark table" -- "$golden" check scalar "$folder/plain.rec"
  source_digest=$(sed -n 's/^# gpu source: //p' "$folder/plain.rec")
  contract=$(sed -n '1s/.*contract \([0-9]*\):.*/\1/p' "$folder/plain.rec")
  python3 - "$folder" "$source_digest" "$contract" <<'P'
import json, sys
folder, source, contract = sys.argv[1], sys.argv[2], int(sys.argv[3])
def result(what, problem, operations, ms, **more):
    tops = operations / ms * 1e-9
    return dict(what=what, problem=problem, ms=ms, tops=tops, of_ceiling=tops / 1289.4, gb_per_s=44.25, **more)
good = dict(program="bench_gpu", contract=contract, gpu_source=source, device="NVIDIA H200", driver="580.159.04", toolkit="CUDA 13.0.88", settings="median of 9",
            ceiling_tops=1289.4, copy_gb_per_s=4300, pytorch=None,
            results=[result("kernel", "b=1 hq=16 hkv=16 nq=16384 nk=16384 d=128 vscale=channel tau=4 out=f16", 4 * 16 * 16384**2 * 128, 3.14159),
                     result("kernel", "b=1 hq=16 hkv=16 nq=16384 nk=16384 d=128 vscale=channel causal=1 tau=4 out=f16", 2 * 16 * 16384**2 * 128, 1.64159),
                     result("from f16", "b=4 hq=16 hkv=16 nq=4096 nk=4096 d=128 vscale=channel tau=4 out=f16", 4 * 64 * 4096**2 * 128, 0.91, of_kernel=0.871)])
def write(name, **change):
    json.dump({**good, **change}, open(f"{folder}/{name}.json", "w"))
first = good["results"][0]
write("bench"), write("bench_old", gpu_source="0" * 16), write("bench_contract", contract=contract + 1), write("bench_none", results=[])
write("bench_fast", results=[{**first, "tops": 2 * first["tops"]}]), write("bench_problem", results=[{**first, "problem": "d=300"}])
write("bench_line", results=[{**first, "what": "kernel\n# cases: 0"}]), write("bench_negative", results=[{**first, "ms": -1.0}])
write("bench_other", program="another"), write("bench_text", results="none")
P
  record() { expect "$1" "$2" "$3" -- "$validate" record --backend openmp --suite "$folder/two.txt" --bench "$folder/$4.json" --output "$folder/$5"; }
  record "record with a benchmark" 0 "2 written" bench bench.rec
  expect "a benchmark table is read and checked" 0 "2 agree, 0 differ" -- "$golden" check scalar "$folder/bench.rec"
  check "its lines" test "$(grep -c '^# bench: ' "$folder/bench.rec")" = 3
  check "its card" grep -q '^# device: NVIDIA H200, driver 580.159.04, CUDA 13.0.88$' "$folder/bench.rec"
  check "and nothing more is said" test "$("$golden" check scalar "$folder/bench.rec" | wc -l)" = 1
  record "a benchmark of other kernels" 2 "measured with gpu source 0000000000000000" bench_old no.rec
  record "a benchmark of another contract" 2 "measured with contract" bench_contract no.rec
  record "a benchmark without results" 2 "has 0 lines" bench_none no.rec
  record "a rate that the time does not make" 2 "do not make" bench_fast no.rec
  record "a problem that is none" 2 "head_dim is 300" bench_problem no.rec
  record "a name that would make a line" 2 "cannot be a line" bench_line no.rec
  record "a time that is none" 2 "malformed" bench_negative no.rec
  record "another program's file" 2 "not written by bench_gpu" bench_other no.rec
  record "results that are no list" 2 "not written by bench_gpu" bench_text no.rec
  record "no such file" 2 "nowhere" nowhere no.rec
  check "no record half written" test ! -e "$folder/no.rec"
  spoil() { sed "$2" "$folder/bench.rec" >"$folder/spoiled.rec"; expect "$1" 2 "$3" -- "$golden" check scalar "$folder/spoiled.rec"; }
  spoil "a table without one of its lines" '/from f16/d' "has 2 lines; its last one says 3"
  spoil "a table without its count" '/^# bench lines/d' "its last one says 0"
  spoil "a table without its ceiling" '/^# bench ceiling/d' "no ceiling before"
  spoil "a figure changed" '/^# bench: kernel/s/ms | [0-9]/ms | 9/' "do not make"
  spoil "a share of the ceiling changed" '/^# bench: kernel/s/TOPS | [0-9]/TOPS | 9/' "are not"
  spoil "a figure cut off" '/^# bench: from/s/ GB.*//' "malformed"
  sed "s/^# gpu source: .*/# gpu source: 0123456789abcdef/" "$folder/bench.rec" >"$folder/older.rec"
  expect "a record older than the kernels" 0 "older.rec is older than gpu/: recorded from source 0123456789abcdef" -- "$golden" check scalar "$folder/older.rec"
fi

finish cli
