#!/usr/bin/env python3
"""counts.py VALIDATE SOURCE_DIR: the counts that documents state, against the program. Exit codes:
0 all hold, 1 not.

Each claim is a document, a pattern whose groups are numbers, and what they must be. A pattern must
be found: a sentence that was reworded takes its check along."""
import glob
import re
import subprocess
import sys

validate, source = sys.argv[1:3]


def output(*arguments):
    return subprocess.run([validate, *arguments], capture_output=True, text=True, check=True).stdout


listing = output("list")
suites = {m[1]: int(m[2]) for m in re.finditer(r"^  (\w+) +(\d+) cases", listing, re.M)}
faults, kernel = {}, None
for line in output("mutants", "--list").split("\n"):
    if re.match(r"\S+: ", line):
        kernel = line.split(":")[0]
    elif re.match(r"  [a-z0-9-]+", line):
        faults[kernel] = faults.get(kernel, 0) + 1
manual = " ".join(open(f"{source}/docs/validate.md", encoding="utf-8").read().split())


def manuals(pattern):
    """A number that docs/validate.md shows; its examples are compared with the program by
    examples.py."""
    found = re.search(pattern, manual)
    return int(found[1]) if found else None


def lines(path, pattern):
    """How many times the lines of the files match."""
    return sum(
        len(re.findall(pattern, line))
        for file in glob.glob(f"{source}/{path}")
        for line in open(file, encoding="utf-8")
    )


def flash(claim, what):
    """The figures of docs/validate.md's example for flash-CLAIM: killed by all suites, of how many, by smoke; too small."""
    found = re.search(
        rf"killed (\d+) [\d ]+flash-{claim}: (\d+) of (\d+) mutants killed, (\d+) more smaller",
        manual,
    )
    if not found or found[2] != found[3]:
        return [None]
    return [int(found[{"smoke": 1, "all": 3, "small": 4}[what]])]


EACH_BACKEND = "every case by a whole number of backends"
CLAIMS = [
    ("docs/testing.md", r"`tests/\*/test_\*.c`, (\d+) of them",
     [lines("tests/*/test_*.c", r"\b(?:cmocka_unit_test|TEST)\(\w+\)")]),
    ("docs/testing.md", r"`data/golden/`, (\d+) cases", [lines("data/golden/*.txt", r"^[0-9a-f]{16} ")]),
    ("docs/testing.md", r"each of (\d+) faults of a CPU kernel", [manuals(r"cpu: (\d+) of \d+ mutants killed")]),
    ("docs/testing.md", r"cheats/`, (\d+) plug-ins", [len(glob.glob(f"{source}/tests/validate/cheats/*.c"))]),
    ("docs/testing.md", r"`second`, (\d+) lines of cases and (\d+) files",
     [lines("tests/second/cases.txt", r"^[^#\s]"), len(glob.glob(f"{source}/tests/second/files/*"))]),
    ("docs/testing.md", r"\*\*Fuzzers\*\* \((\d+)\)", [len(glob.glob(f"{source}/tests/*/fuzz_*.c"))]),
    ("README.md", r"That is (\d+) cases \(`validate list`\)", [suites["all"]]),
    ("README.md", r"(\d+) passed, 0 failed, 0 unsupported, (\d+) not available, (\d+) empty That is", EACH_BACKEND),
    ("README.md", r"of (\d+) faults in an attention kernel, one at a time, `smoke` notices (\d+)",
     [manuals(r"cpu: (\d+) of \d+ mutants killed"), manuals(r"killed (\d+) [\d .]+ cpu: ")]),
    ("README.md", r"of (\d+) in the GPU's `mma.sync` kernels",
     [manuals(r"cuda-sm80: \d+ of (\d+) mutants killed")]),
    ("README.md", r"of (\d+) faults in fp16 FlashAttention `smoke` notices (\d+), of (\d+) in FP8 FlashAttention (\d+),"
     r" all suites every one \((\d+) and (\d+) more",
     [*flash("f16", "all"), *flash("f16", "smoke"), *flash("fp8", "all"), *flash("fp8", "smoke"),
      *flash("f16", "small"), *flash("fp8", "small")]),
    ("docs/close.md", r"of (\d+) faults in fp16 FlashAttention and (\d+) in FP8, smoke kills (\d+) and (\d+), all suites"
     r" every one. Another (\d+) and (\d+) are",
     [*flash("f16", "all"), *flash("fp8", "all"), *flash("f16", "smoke"), *flash("fp8", "smoke"),
      *flash("f16", "small"), *flash("fp8", "small")]),
    ("README.md", r"Right ones pass: (\d+) kernels", [lines("tests/validate/close_family.c", r"^    \{\S+.*IFA_FLASH_\w+,")]),
    ("docs/close.md", r"runs (\d+) of them", [lines("tests/validate/close_family.c", r"^    \{\S+.*IFA_FLASH_\w+,")]),
    ("docs/validate.md", r"(\d+) right kernels of every", [lines("tests/validate/close_family.c", r"^    \{\S+.*IFA_FLASH_\w+,")]),
    ("CHANGELOG.md", r"(\d+) right kernels .* `flash-fp8`: (\d+) and (\d+) faults in",
     [lines("tests/validate/close_family.c", r"^    \{\S+.*IFA_FLASH_\w+,"), faults["flash-f16"], faults["flash-fp8"]]),
    ("docs/validate.md", r"\*\*`flash-f16`\*\*, (\d+) faults, and \*\*`flash-fp8`\*\*, (\d+) faults",
     [faults["flash-f16"], faults["flash-fp8"]]),
    ("docs/validate.md", r"\*\*`cpu`\*\*, (\d+) faults", [faults["cpu"]]),
    ("docs/validate.md", r"\*\*`cuda-sm80`\*\*, (\d+) faults", [faults["cuda-sm80"]]),
    ("docs/validate.md", r"\*\*`cuda-sm90`\*\*, (\d+) faults", [faults["cuda-sm90"]]),
    ("CHANGELOG.md", r"(\d+) faults in a kernel of the CPU, (\d+) in the GPU's `mma.sync` kernels",
     [faults["cpu"], faults["cuda-sm80"]]),
    ("CHANGELOG.md", r"(\d+) in its `wgmma` kernel", [faults["cuda-sm90"]]),
    *(("docs/validate.md", rf"\| `{name}` \| (\d+) \|", [suites[name]]) for name in suites if name != "all"),
]  # fmt: skip


def holds(found, values):
    """A whole number of backends for EACH_BACKEND: passed and empty, and not available."""
    numbers = [int(group) for group in found.groups()]
    if values is not EACH_BACKEND:
        return numbers == values
    passed, absent, empty = numbers
    return (passed + empty) % suites["all"] == 0 and absent % suites["all"] == 0 and passed > 0


wrong = 0
for document, pattern, values in CLAIMS:
    text = " ".join(open(f"{source}/{document}", encoding="utf-8").read().split())
    found = re.search(pattern, text)
    if not found:
        print(f"{document}: no sentence like {pattern!r}")
    elif not holds(found, values):
        print(f"{document}: {found[0]!r}, but it is {values}")
    else:
        continue
    wrong += 1
print(f"counts of the documents: {len(CLAIMS) - wrong} right, {wrong} wrong")
sys.exit(1 if wrong else 0)
