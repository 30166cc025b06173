#!/usr/bin/env bash
# manual.sh VALIDATE MANUAL_PAGE SOURCE_DIR - the manual page holds every command and option and is well-formed; the completion offers them.
set -u
validate=$1 page=$2 source=$3
failed=0
fail() { echo "FAILED $*"; failed=1; }

commands=$("$validate" --help | sed -n 's/^  \([a-z][a-z]*\)  *.*/\1/p')
[ "$(echo "$commands" | wc -l)" -ge 11 ] || fail "only these commands: $commands"
for command in $commands; do
  "$validate" "$command" --help >/dev/null || fail "$command --help"
  sed -n "/^\.SS $command\$/,/^\.S[SH] /p" "$page" | sed 's/\\-/-/g' >"$page.section"
  for option in $("$validate" "$command" --help | grep -oE '^ +(-[a-z], +)?--[a-z-]+' | grep -oE -e '--[a-z-]+' | grep -vE -e '^--(help|usage)$'); do
    grep -q "^\.B .*$option\b" "$page.section" || fail "the page of $command lacks $option"
  done
done
rm -f "$page.section"
if command -v mandoc >/dev/null; then mandoc -T lint -W warning "$page" || fail "mandoc"
elif command -v groff >/dev/null; then [ -z "$(groff -man -ww -z -Tutf8 "$page" 2>&1)" ] || fail "groff"
else echo "not available: neither mandoc nor groff"; fi

# offers WORDS... : what bash completes the last word to
offers() {
  COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
  _validate
  echo "${COMPREPLY[*]}"
}
compopt() { :; }
. "$source/tools/completion/validate.bash"
[ "$(offers "$validate" "")" = "$(echo $commands)" ] || fail "commands are not completed: $(offers "$validate" "")"
[ "$(offers "$validate" --v)" = --version ] || fail "--version is not completed"
[ "$(offers "$validate" di)" = diff ] || fail "di is not completed"
[[ " $(offers "$validate" run --j) " == *" --json "* ]] || fail "options are not completed: $(offers "$validate" run --j)"
[ "$(offers "$validate" run --suite smo)" = smoke ] || fail "suites are not completed: $(offers "$validate" run --suite smo)"
[[ " $(offers "$validate" bench --backend "") " == *" openmp "* ]] || fail "backends are not completed"
[ "$failed" = 0 ] && echo "manual page and completion: every command and option"
exit $failed
