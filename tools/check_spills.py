#!/usr/bin/env python3
"""Registers and spills of the attention kernels, from what the compiler reported (nvcc -Xptxas=-v).

    tools/check_spills.py BUILD_LOG

Prints a line for each main configuration. Exit codes: 0, 1 a configuration of SPILL_FREE spills or
a main one is not in the report, 2 usage. """
import re
import sys

# The kernel sm80 is built for two of these, its tiles have 64 keys; sm90 for sm_90a alone.
ARCHITECTURES = {"sm_80": ("sm80", (64,)), "sm_90": ("sm80", (64,)), "sm_90a": ("sm90", (64, 128))}
HEAD_DIMS = (64, 128)
V_SCALES = {0: "V per channel", 1: "V per token"}

# (architecture, head_dim, kv_tile, V's scale); and those that must not spill.
MAIN = [
    (a, d, t, v)
    for a, (_, tiles) in ARCHITECTURES.items()
    for d in HEAD_DIMS
    for t in tiles
    for v in V_SCALES
]
SPILLS = [
    ("sm_90a", 64, 128, 0),
    ("sm_90a", 64, 64, 0),
    ("sm_90a", 64, 64, 1),
    ("sm_90a", 128, 64, 0),
    ("sm_90a", 128, 64, 1),
    ("sm_90a", 128, 128, 1),
]
SPILL_FREE = [c for c in MAIN if c not in SPILLS]

# smNN::attend<Shape<head_dim, kv_tile, V per token, several splits>>, as the compiler mangles them.
KERNEL = re.compile(r"(sm[89]0)6attendINS_5ShapeILi(\d+)ELi(64|128)ELb([01])ELb[01]EEE")


def kernels_of(log):
    """(architecture, head_dim, kv_tile, V's scale) -> list of (registers, bytes spilled: stores +
    loads), one a kernel."""
    found, current = {}, None
    for line in log:
        entry = re.search(r"Compiling entry function '(\S+)' for '(\w+)'", line)
        if entry:
            name = KERNEL.search(entry[1])
            known = name and ARCHITECTURES.get(entry[2], (None,))[0] == name[1]
            current = (entry[2], int(name[2]), int(name[3]), int(name[4])) if known else None
            spilled = None
            continue
        if current is None:
            continue
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if spills:
            spilled = int(spills[1]) + int(spills[2])
        registers = re.search(r"Used (\d+) registers", line)
        if registers and spilled is not None:
            found.setdefault(current, []).append((int(registers[1]), spilled))
            current = None
    return found


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], errors="replace") as log:
        found = kernels_of(log)
    bad = 0
    for configuration in MAIN:
        architecture, head_dim, kv_tile, v_scale = configuration
        name = (
            f"{ARCHITECTURES[architecture][0]}, {architecture}, head_dim {head_dim},"
            f" kv_tile {kv_tile}, {V_SCALES[v_scale]}"
        )
        if configuration not in found:
            print(f"{name}: not in the compiler's report")
            bad += 1
            continue
        for registers, spilled in sorted(found[configuration]):
            must_not = configuration in SPILL_FREE
            wrong = spilled > 0 and must_not
            print(
                f"{name}: {registers} registers, {spilled} bytes of spills"
                + (" - must have none" if wrong else "")
            )
            bad += wrong
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
