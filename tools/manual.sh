#!/bin/sh
# manual.sh VALIDATE TEMPLATE PAGE - the manual page: the template, with a section for every command made from its --help.
set -eu
validate=$1 template=$2 page=$3
export ARGP_HELP_FMT=rmargin=4000 LC_ALL=C # one line for each option and paragraph

commands=$("$validate" --help | sed -n 's/^  \([a-z][a-z]*\)  *.*/\1/p')
[ -n "$commands" ]

# Text of a page: no escapes or control lines of roff's, and minus signs that can be pasted.
section() {
  awk -v name="$1" '
    function safe(text) { gsub(/\\/, "\\e", text); gsub(/-/, "\\-", text); if (text ~ /^[.\047]/) text = "\\&" text; return text }
    { sub(/ +$/, "") }
    NR == 1 { sub(/^[Uu]sage: validate [a-z]+ */, ""); printf ".SS %s\n.B validate %s\n%s\n", name, name, safe($0); next }
    /^ +-\?, --help/ || /^ +--usage / || /^ +-V, --version/ || /^Mandatory or optional arguments/ { next }
    /^ +-/ { # "  -b, --backend=A,B          text"
      sub(/^ +/, ""); at = match($0, /  +/)
      option = at ? substr($0, 1, at - 1) : $0; text = at ? substr($0, at + RLENGTH) : ""
      printf ".TP\n.B %s\n%s\n", safe(option), safe(text); listed = 1; next
    }
    /^$/ { blank = 1; next }
    /^  / { printf ".PP\n.nf\n%s\n.fi\n", safe($0); blank = 0; next }
    { if (blank || NR == 2 || listed) print ".PP"; blank = 0; listed = 0; print safe($0) }'
}

while IFS= read -r line; do
  if [ "$line" != "@COMMANDS@" ]; then printf '%s\n' "$line"; continue; fi
  for command in $commands; do "$validate" "$command" --help | section "$command"; done
done <"$template" >"$page.new"
mv "$page.new" "$page"
