#!/usr/bin/env python3
"""sizes.py [FOLDER...]: how large the sources are: lines over 100 columns, the largest files and
folders, functions over 80 lines.

Run from the root of the project; FOLDER: only what lies below (default: every folder with sources).
It prints, and judges nothing. A function of C, C++ or CUDA is what begins in column 0 with a name
and a '(' and ends at the '}' in column 0; one of Python what its parser says."""
import ast
import os
import re
import sys

COLUMNS, FUNCTION, SHOWN = 100, 80, 5
ENDINGS = (".c", ".h", ".cu", ".cuh", ".cc", ".cpp", ".py")
NAME = re.compile(r"([A-Za-z_]\w*)\(")
NO_NAME = ("__launch_bounds__", "__attribute__", "__align__")
NO_FUNCTION = ("typedef", "struct", "enum", "union", "namespace")


def sources(folders):
    for folder in folders:
        for at, below, names in os.walk(folder):
            below[:] = sorted(b for b in below if b not in ("build", ".git"))
            for name in sorted(names):
                if name.endswith(ENDINGS):
                    yield os.path.normpath(os.path.join(at, name))


def functions(lines):
    """(name, first line, lines) of each function, from the first line of its head to its '}'."""
    head = None
    for number, line in enumerate(lines, 1):
        if head is None and re.match(r"[A-Za-z_]", line) and not line.startswith(NO_FUNCTION):
            head = number
        if head is not None and line.rstrip().endswith(";"):
            if not any("{" in one for one in lines[head - 1 : number]):
                head = None  # a declaration
        if line.startswith("}") and head is not None:
            text = " ".join(lines[head - 1 : number])
            before = text[: text.find("{")]
            names = [n for n in NAME.findall(before) if n not in NO_NAME]
            if names and "=" not in before:
                yield names[0], head, number - head + 1
            head = None


def functions_of_python(lines):
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def largest(counts):
    counts = sorted(((n, name) for name, n in counts), reverse=True)
    return ", ".join(f"{name} {n}" for n, name in counts[:SHOWN])


def main():
    folders = sys.argv[1:]
    if not folders:
        folders = [f for f in sorted(os.listdir(".")) if os.path.isdir(f) and f[0] != "."]
        folders = [f for f in folders if f != "build"]
    total = wide = 0
    files, found, per_folder = [], [], {}
    for path in sources(folders):
        lines = open(path, encoding="utf-8").read().split("\n")[:-1]
        total += len(lines)
        wide += sum(len(line) > COLUMNS for line in lines)
        files.append((path, len(lines)))
        folder = os.path.dirname(path)
        per_folder[folder] = per_folder.get(folder, 0) + 1
        of_file = functions_of_python if path.endswith(".py") else functions
        found += [(length, f"{path}:{first}", name) for name, first, length in of_file(lines)]
    if not files:
        sys.exit("sizes.py: no sources here")
    share = f"{100 * wide / total:.1f}%"
    print(f"{len(files)} files, {total} lines, {wide} over {COLUMNS} columns ({share})")
    print("largest files:   " + largest(files))
    print("largest folders: " + largest(per_folder.items()))
    long = sorted((f for f in found if f[0] > FUNCTION), reverse=True)
    print(f"{len(found)} functions, {len(long)} over {FUNCTION} lines" + (":" if long else ""))
    for length, where, name in long:
        print(f"  {length:4} {where} {name}")


main()
