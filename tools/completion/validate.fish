# Completion of validate for fish. The program is asked, so nothing here goes out of date.
complete -c validate -n __fish_use_subcommand -f -a "(validate --help 2>/dev/null | string match -rg '^  ([a-z]+ .*)' | string replace -r ' +' '\t')"
complete -c validate -n 'not __fish_use_subcommand' -a "(set -l words (commandline -opc); validate \$words[2] --help 2>/dev/null | string match -arg '(--[a-z][a-z-]*)')"
complete -c validate -n __fish_use_subcommand -l help -l version
