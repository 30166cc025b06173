#!/usr/bin/env python3
"""examples.py VALIDATE VALIDATE_BROKEN SOURCE_DIR CC [--slow | --all]: the examples of the
documents, run.

Every command in a fenced block of a document (a line that begins with "$ ") runs in the document's
order in a scratch folder, and what it prints is compared with what the document shows. In the
document

    ...                     stands for any lines, or within a line for any text
    times, rates, shares    are masked: "0.013 s", "4.63 Gop/s", "12.8% of 171" match any figure
    names of machines       are masked, and so are lines of backends that this machine does not have

An example that nobody can run here (it installs, or needs hours) is named in LEFT_OUT with its
reason, and counted. --slow: the examples of SLOW only; --all: everything. Exit codes: 0 all as
shown, 1 something differs."""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

SLOW = ("validate mutants", "validate accuracy --table paper")
LEFT_OUT = {
    "validate accuracy --table paper": "takes ten minutes",
    "./dev validate list": "builds",
    "pip install .": "./dev test python installs a wheel; here it is the checkout's package",
    "./dev validate": "installs and builds; `validate run --suite all` is a test of its own",
    "cmake --install build/release --prefix ~/ifa": "tests/install/install.sh installs",
    "~/ifa/bin/validate run --plugin ./libmine.so --suite all --html report.html": "prints what smoke prints",
}
FIGURE = r"[-+0-9.eEx]+"
UNIT = r"(s|ms|us|Gop/s|GB/s|TOPS|x scalar|x f32-blas|x\)|Gop/s \(|% of)"


def blocks(path):
    """The commands of a document's fenced blocks: [(line number, command, expected lines)]."""
    found, inside, number = [], False, 0
    for number, line in enumerate(open(path, encoding="utf-8").read().split("\n"), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
            current = None
        elif inside and line.startswith("$ "):
            current = [number, line[2:], []]
            found.append(current)
        elif inside and current is not None:
            if current[1].endswith("\\") and not current[2]:
                current[1] = current[1][:-1] + line.strip()
            else:
                current[2].append(line)
    return found


def pattern(line, figures):
    """A line of a document as a regular expression of what may be printed; figures: all are
    masked."""
    if re.search(r"Processor|EPYC|gcc \d", line):
        return ".*"
    masked = re.sub(r"(?<![\w.])" + FIGURE + r"(?=\s*" + UNIT + r"(?![a-z]))", "\x01", line)
    masked = re.sub(
        r"\((\x01|" + FIGURE + r") \.\. (\x01|" + FIGURE + r")\)", "(\x01 .. \x01)", masked
    )
    if figures and line.startswith("  "):
        masked = re.sub(r"(?<![\w.-])\d[\d.e+]*", "\x01", masked)
    text = "".join(
        r"\S+"
        if piece == "\x01"
        else ".*"
        if piece == "..."
        else r"\s+"
        if piece.isspace()
        else re.escape(piece)
        for piece in re.split(r"(\x01|\.\.\.|\s+)", masked)
        if piece
    )
    return text


def absent_backends(validate):
    """The backends that this build or machine does not have."""
    lines = subprocess.run(
        [validate, "list"], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    return [a.split()[0] for a, b in zip(lines, lines[1:]) if b.strip().startswith("not available")]


def differs(expected, printed, absent, figures):
    """None, or the first expected line that is not there."""
    rest = [line.rstrip() for line in printed]
    for i, line in enumerate(expected):
        if line.strip() == "...":
            continue
        if any(re.match(r"\s*" + re.escape(name) + r"\b", line) for name in absent):
            continue
        free = i > 0 and expected[i - 1].strip() == "..."
        at = 0
        while at < len(rest) and not re.fullmatch(pattern(line.rstrip(), figures), rest[at]):
            skipped = any(
                re.match(r"\s*" + re.escape(name) + r"\b", rest[at]) for name in ABSENT_OR_NEW
            )
            if not free and not skipped:
                return f"{line!r} was expected, {rest[at]!r} was printed"
            at += 1
        if at == len(rest):
            return f"{line!r} was not printed"
        rest = rest[at + 1 :]
    if rest and any(rest) and (not expected or expected[-1].strip() != "..."):
        return f"{next(line for line in rest if line)!r} was printed, the document ends before it"
    return None


ABSENT_OR_NEW = ("cpu-", "cuda", "f32-blas", "vfmadd", "vpdpbusd", "vpmaddwd", "reading memory")


def command_of(text, source, cc):
    """The command as it runs here: what the document writes for an installed copy, for this
    build."""
    text = text.replace("build/release/validate/validate", "validate").replace(
        "~/ifa/bin/validate", "validate"
    )
    text = re.sub(r"^cp ~/ifa/share/ifa/examples/", f"cp {source}/examples/", text)
    text = re.sub(r"^cc ", f"{cc} ", text).replace("-I ~/ifa/include", f"-I {source}/include")
    return text


def main():
    validate, broken, source, cc = (os.path.abspath(a) if os.sep in a else a for a in sys.argv[1:5])
    slow, everything = "--slow" in sys.argv, "--all" in sys.argv
    documents = [
        f"{source}/README.md",
        f"{source}/ref/README.md",
        *sorted(glob.glob(f"{source}/docs/*.md")),
    ]
    python = next(
        (
            p
            for p in (shutil.which("python3"), "/usr/bin/python3")
            if p
            and subprocess.run(
                [p, "-c", "import numpy"], stderr=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        ),
        None,
    )
    if not python:
        print("examples: there is no python3 with numpy")
        return 1
    absent = absent_backends(validate)
    passed = failed = left_out = 0
    for document in documents:
        name = os.path.relpath(document, source)
        with tempfile.TemporaryDirectory() as folder:
            for link in ("data", "tests", "examples"):
                os.symlink(f"{source}/{link}", f"{folder}/{link}")
            os.mkdir(f"{folder}/bin")
            os.symlink(validate, f"{folder}/bin/validate")
            os.symlink(python, f"{folder}/bin/python3")
            os.mkdir(f"{folder}/broken")
            os.symlink(broken, f"{folder}/broken/validate")
            environment = dict(
                os.environ, PATH=f"{folder}/bin:{os.environ['PATH']}", PYTHONDONTWRITEBYTECODE="1"
            )
            built = os.path.dirname(validate)
            environment.update(
                PYTHONPATH=f"{source}/python/src",
                IFA_LIBRARY=f"{built}/../libifa.so",
                IFA_JUDGE_LIBRARY=f"{built}/libifa_judge.so",
            )
            text = open(document, encoding="utf-8").read()
            listing = re.search(r"where `(\w+\.py)` is.*?```python\n(.*?)```", text, re.S)
            if listing:
                open(f"{folder}/{listing[1]}", "w", encoding="utf-8").write(listing[2])
            for line, command, expected in blocks(document):
                command = command.split("   #")[0].rstrip()
                is_slow = command.startswith(SLOW)
                if command in LEFT_OUT and not (everything and command.startswith("validate")):
                    left_out += not slow
                    continue
                if not everything and is_slow != slow:
                    continue
                while expected and not expected[-1].strip():
                    expected.pop()
                if command.startswith("cat "):  # a listing: the reader's file
                    open(f"{folder}/{command[4:]}", "w", encoding="utf-8").write(
                        "\n".join(expected) + "\n"
                    )
                    continue
                path = environment["PATH"]
                if "IFA_BROKEN" in command or "yesterday.json" in command:
                    environment["PATH"] = f"{folder}/broken:{path}"
                if "yesterday.json" in command:
                    make_reports(folder, environment)
                run = subprocess.run(
                    command_of(command, source, cc),
                    shell=True,
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    stdin=subprocess.DEVNULL,
                    check=False,
                )
                environment["PATH"] = path
                printed = (run.stdout + run.stderr).rstrip("\n").split("\n")
                printed = [] if printed == [""] else printed
                why = differs(expected, printed, absent, "validate bench" in command)
                if why:
                    failed += 1
                    print(f"{name}:{line}: $ {command}\n  {why}")
                    print("".join(f"  | {p}\n" for p in printed[:40]), end="")
                else:
                    passed += 1
    print(f"examples of the documents: {passed} as shown, {failed} not, {left_out} not run")
    return 1 if failed or not passed else 0


def make_reports(folder, environment):
    """What `validate diff` is shown with: two runs of the same cases, the second with a fault."""
    for name, fault in (("yesterday", None), ("today", "unit")):
        env = dict(environment) if fault is None else dict(environment, IFA_BROKEN=fault)
        only_first = ["--case", "b=1 hq=1 hkv=1 nq=9 nk=70 d=16"]
        subprocess.run(
            ["validate", "run", "--backend", "scalar,openmp", *only_first, "--case", "nq=9 nk=0", "--json", f"{folder}/{name}.json"],
            env=env, cwd=folder, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
