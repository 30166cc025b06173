#compdef validate
# Completion of validate for zsh. The program is asked, so nothing here goes out of date.
local -a found
if ((CURRENT == 2)); then
  found=(${(f)"$($words[1] --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\)  *\(.*\)/\1:\2/p')"})
  [[ $words[CURRENT] == -* ]] && found=(--help --version)
  _describe command found
elif [[ $words[CURRENT] == -* ]]; then
  found=(${(fu)"$($words[1] $words[2] --help 2>/dev/null | grep -oE -e '--[a-z][a-z-]*')"})
  compadd -- $found
else
  case $words[CURRENT-1] in
    --suite | -s) found=(${(f)"$($words[1] list 2>/dev/null | sed -n '/^suites:/,/^$/s/^  \([a-z_]*\)  *[0-9].*/\1/p')"}); compadd -- $found; _files ;;
    --backend | -b) found=(${(f)"$($words[1] list 2>/dev/null | sed -n '1,/^references/s/^  \([a-z][a-z0-9-]*\)  *.*/\1/p')"}); compadd -- $found ;;
    *) _files ;;
  esac
fi
