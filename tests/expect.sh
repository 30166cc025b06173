# expect.sh - sourced by the tests in shell: commands whose exit code and output are as they should be. Makes $folder, which is removed at the end.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0

# verdict NAME FAILURE OUTPUT: FAILURE is empty where there is none; else it is shown with the output's beginning.
verdict() {
  if [ -z "$2" ]; then passed=$((passed + 1)); return; fi
  echo "FAILED $1$2"
  head -30 "$3" | sed 's/^/  /'
  failed=$((failed + 1))
}

# expect NAME CODE [PATTERN] -- COMMAND...: runs it, checks the exit code and that the output (both streams) has the pattern. The output stays in $folder/out.
expect() {
  local name=$1 code=$2 pattern="" got=0 failure=""; shift 2
  if [ "$1" != -- ]; then pattern=$1; shift; fi
  shift
  "$@" >"$folder/out" 2>&1 </dev/null || got=$?
  if [ $got != "$code" ]; then failure=": exit code $got, not $code"
  elif [ -n "$pattern" ] && ! grep -qE -e "$pattern" "$folder/out"; then failure=": no '$pattern'"; fi
  verdict "$name" "$failure" "$folder/out"
}

# check NAME COMMAND...: the command succeeds.
check() {
  local name=$1 failure=""; shift
  "$@" >"$folder/check" 2>&1 || failure=": exit code $?"
  verdict "$name" "$failure" "$folder/check"
}

# finish NAME: the last line, and the test's exit code.
finish() {
  echo "$1: $passed passed, $failed failed"
  [ $failed = 0 ]
}
