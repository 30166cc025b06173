#!/usr/bin/env bash
# steps.sh VALIDATE SOURCE_DIR: the steps (gpu/steps) on the emulated GPU give the oracle's bits, on every case that they take, and refuse the others by
# the name of what they leave out.
set -u
validate=$1
. "$2/tests/expect.sh"

# Cases that every step takes: masks, groups of heads, every scale of Q and K, lengths around tiles, units that rise and fall, layouts, types, chosen rows.
common=(
  --case "b=2 hq=4 hkv=2 nq=70 nk=200 d=64,128 causal=0,1 window=0,3,70 vscale=tensor,channel lse=1 fill=normal"
  --case "hq=2 hkv=1 nq=33 nk=1,64,129 d=64 qscale=token,block,tensor kscale=token,block,tensor qblock=8 kblock=64 causal=1 fill=wide lse=1"
  --case "nq=20 nk=400 d=64 tau=0,2,inf sm=5 fill=wide,falling,rising,sink,extremes,zeros,equal lse=1"
  --case "b=2 hq=3 hkv=3 nq=10,150 nk=90 d=128 layout=bnhd out=f32,f16,bf16 rows=13 fill=outlier"
  --case "b=2 hq=2 nq=7 nk=0 d=64 lse=1"
)
for step in naive tiled mma; do
  expect "$step" 0 "^79 passed, 0 failed, 0 unsupported" -- "$validate" run --backend cuda-step-$step "${common[@]}"
done
expect "naive: any tile and head_dim" 0 "^24 passed, 0 failed, 0 unsupported" -- \
  "$validate" run --backend cuda-step-naive --case "hq=2 nq=9 nk=300 d=1,7,40,96,200,256 tile=32,64,128,256 causal=1 fill=wide lse=1"
expect "tiled: head_dim up to 128" 0 "^7 passed, 0 failed, 0 unsupported" -- \
  "$validate" run --backend cuda-step-tiled --case "hq=2 nq=70 nk=150 d=1,7,40,63,65,96,127 causal=1 fill=wide lse=1"

# refuse STEP PATTERN CASE
refuse() { expect "$1 refuses: $3" 3 "^unsupported +cuda-step-$1 .*  [a-z].*$2" -- "$validate" run -v --backend "cuda-step-$1" --case "$3"; }
for step in naive tiled mma; do
  refuse $step "int4" "nq=5 nk=9 d=64 qk=int4"
  refuse $step "int4" "nq=5 nk=9 d=64 v=int4"
  refuse $step "scale per token" "nq=5 nk=9 d=64 vscale=token"
  refuse $step "scale per token" "nq=5 nk=9 d=64 vscale=token_channel"
  refuse $step "kv_split 64" "nq=5 nk=100 d=64 split=64"
done
refuse tiled "kv_tile is 32" "nq=5 nk=9 d=64 tile=32"
refuse mma "kv_tile is 128" "nq=5 nk=9 d=64 tile=128"
refuse tiled "head_dim is 129" "nq=5 nk=9 d=129"
refuse mma "head_dim is 80" "nq=5 nk=9 d=80"
refuse mma "multiple of 16" "nq=5 nk=9 d=64 qstride=800:400:65"

expect "listed apart" 0 "" -- "$validate" list
check "as available" grep -A1 "^  cuda-step-mma" "$folder/out"
check "below their heading" awk '/^steps towards/ { heading = NR } /cuda-sm80/ { product = NR } /cuda-step-naive/ { step = NR } END { exit !(product < heading && heading < step) }' "$folder/out"
expect "left out where none is named" 0 "" -- "$validate" run -v --case "nq=5 nk=9 d=64"
check "not among the backends" sh -c '! grep -q cuda-step "$1" && grep -q cuda-sm80 "$1"' - "$folder/out"
expect "not timed by bench" 2 "bench_gpu --steps" -- "$validate" bench --backend cuda-step-mma
finish steps
