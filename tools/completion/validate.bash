# Completion of validate for bash. The program is asked, so nothing here goes out of date.
_validate() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} program=${COMP_WORDS[0]} command=${COMP_WORDS[1]} words
  [ "$previous" != "=" ] || previous=${COMP_WORDS[COMP_CWORD-2]}
  [ "$word" != "=" ] || word=""
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    words=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\)  *.*/\1/p')
    [[ $word != -* ]] || words="--help --version"
  elif [[ $word == -* ]]; then
    words=$("$program" "$command" --help 2>/dev/null | grep -oE -e '--[a-z][a-z-]*')
  else
    case $previous in
      --suite | -s) words=$("$program" list 2>/dev/null | sed -n '/^suites:/,/^$/s/^  \([a-z_]*\)  *[0-9].*/\1/p'); compopt -o default ;;
      --backend | -b) words=$("$program" list 2>/dev/null | sed -n '1,/^references/s/^  \([a-z][a-z0-9-]*\)  *.*/\1/p') ;;
      *) compopt -o default 2>/dev/null; return ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _validate validate
