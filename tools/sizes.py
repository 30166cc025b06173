#!/usr/bin/env python3
"""sizes.py [FOLDER...]: how large the sources are: lines over 100 columns, the largest files and folders, functions over
80 lines.

Run from the root of the project; FOLDER: only what lies below (default: every folder with sources). It prints, and
judges nothing. A function is what begins in column 0 with a name and a '(' and ends at the '}' in column 0."""
import os
import re
import sys

COLUMNS, FUNCTION, SHOWN = 100, 80, 5
ENDINGS = (".c", ".h", ".cu", ".cuh", ".cc", ".cpp")
NAME = re.compile(r"([A-Za-z_]\w*)\(")


def sources(folders):
    for folder in folders:
        for at, below, names in os.walk(folder):
            below[:] = sorted(b for b in below if b not in ("build", ".git"))
            yield from (os.path.normpath(os.path.join(at, n)) for n in sorted(names) if n.endswith(ENDINGS))


def functions(lines):
    """(name, first line, lines) of each function, from the first line of its head to its '}'."""
    head = None
    for number, line in enumerate(lines, 1):
        if head is None:
            if re.match(r"[A-Za-z_]", line) and not line.startswith(("typedef", "struct", "enum", "union", "namespace")):
                head = number
        if head is not None and line.rstrip().endswith(";") and not any("{" in l for l in lines[head - 1:number]):
            head = None  # a declaration
        if line.startswith("}") and head is not None:
            text = " ".join(lines[head - 1:number])
            before = text[:text.find("{")]
            names = [n for n in NAME.findall(before) if n not in ("__launch_bounds__", "__attribute__", "__align__")]
            if names and "=" not in before:
                yield names[0], head, number - head + 1
            head = None


def main():
    folders = sys.argv[1:] or [f for f in sorted(os.listdir(".")) if os.path.isdir(f) and f[0] != "." and f != "build"]
    total = wide = 0
    files, found, per_folder = [], [], {}
    for path in sources(folders):
        lines = open(path, encoding="utf-8").read().split("\n")[:-1]
        total += len(lines)
        wide += sum(len(line) > COLUMNS for line in lines)
        files.append((len(lines), path))
        per_folder[os.path.dirname(path)] = per_folder.get(os.path.dirname(path), 0) + 1
        found += [(length, f"{path}:{first}", name) for name, first, length in functions(lines)]
    if not files:
        sys.exit("sizes.py: no sources here")
    print(f"{len(files)} files, {total} lines, {wide} over {COLUMNS} columns ({100 * wide / total:.1f}%)")
    print("largest files:   " + ", ".join(f"{path} {n}" for n, path in sorted(files, reverse=True)[:SHOWN]))
    print("largest folders: " + ", ".join(
        f"{path} {n}" for n, path in sorted(((n, p) for p, n in per_folder.items()), reverse=True)[:SHOWN]))
    long = sorted((f for f in found if f[0] > FUNCTION), reverse=True)
    print(f"{len(found)} functions, {len(long)} over {FUNCTION} lines" + (":" if long else ""))
    for length, where, name in long:
        print(f"  {length:4} {where} {name}")


main()
