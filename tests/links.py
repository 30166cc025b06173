#!/usr/bin/env python3
"""links.py FOLDER - the documents (*.md) of a folder: every relative link leads to a file or folder
that is there, every #section to a heading of that document. Build folders and those that begin with
a point are left out. Exit codes: 0 all lead somewhere, 1 one does not, or there was no link."""

import os
import re
import sys
from pathlib import Path

LINK = re.compile(
    r"\]\(\s*<?([^()\s<>]+)>?[^()]*\)|^\s*\[[^]]+\]:\s*(\S+)"
    r"|<(?:a|img)\b[^>]*\b(?:href|src)=\"([^\"]+)\"",
    re.M,
)
CODE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)|`[^`\n]*`", re.M | re.S)


def documents(folder):
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(
            f
            for f in folders
            if f != "build"
            and not f.startswith(".")
            and not (Path(at) / f / "CMakeCache.txt").exists()
        )
        yield from (Path(at) / f for f in sorted(files) if f.endswith(".md"))


def sections(document):
    """The names that headings have as link targets: lower case, only letters, digits, - and _,
    blanks as -; repeated ones numbered."""
    names = {}
    for heading in re.findall(
        r"^#{1,6} +(.*?)(?: +#*)?$", document.read_text(encoding="utf-8"), re.M
    ):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names[name] = names.get(name, -1) + 1
        yield name if names[name] == 0 else f"{name}-{names[name]}"


def main(folder):
    links = dead = 0
    for document in documents(folder):
        text = CODE.sub(
            lambda code: "\n" * code[0].count("\n"), document.read_text(encoding="utf-8")
        )
        for found in LINK.finditer(text):
            link = next(g for g in found.groups() if g)
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            links += 1
            path, _, section = link.partition("#")
            target = document.parent / path if path else document
            if (
                not target.exists()
                or section
                and target.suffix == ".md"
                and section not in sections(target)
            ):
                line = text.count("\n", 0, found.start()) + 1
                print(f"{document.relative_to(folder)}:{line}: dead link: {link}")
                dead += 1
    print(f"links: {links - dead} passed, {dead} failed")
    return 1 if dead or not links else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
