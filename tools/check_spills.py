#!/usr/bin/env python3
"""Registers and spills of the attention kernels, from what the compiler reported (nvcc -Xptxas=-v).

    tools/check_spills.py BUILD_LOG

Prints a line for each main configuration. Exit codes: 0, 1 a configuration of SPILL_FREE spills or a main one is not in the report, 2 usage.
"""
import re
import sys

ARCHITECTURES = ("sm_80", "sm_90")
HEAD_DIMS = (64, 128)
V_SCALES = {0: "V per channel", 1: "V per token"}

# (architecture, head_dim, V's scale); and those that must not spill.
MAIN = [(a, d, v) for a in ARCHITECTURES for d in HEAD_DIMS for v in V_SCALES]
SPILL_FREE = MAIN

# sm80::attend<Shape<head_dim, 64, V per token, several splits>>, the kernels for tiles of 64 keys, as the compiler mangles them.
KERNEL = re.compile(r"attendINS_5ShapeILi(\d+)ELi64ELb([01])ELb[01]EEE")


def kernels_of(log):
    """(architecture, head_dim, V's scale) -> list of (registers, bytes spilled: stores + loads), one a kernel."""
    found, current = {}, None
    for line in log:
        entry = re.search(r"Compiling entry function '(\S+)' for '(\w+)'", line)
        if entry:
            name = KERNEL.search(entry[1])
            current = (entry[2], int(name[1]), int(name[2])) if name else None
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
        architecture, head_dim, v_scale = configuration
        name = f"attention {architecture}, head_dim {head_dim}, {V_SCALES[v_scale]}"
        if configuration not in found:
            print(f"{name}: not in the compiler's report")
            bad += 1
            continue
        for registers, spilled in sorted(found[configuration]):
            must_not = configuration in SPILL_FREE
            wrong = spilled > 0 and must_not
            print(f"{name}: {registers} registers, {spilled} bytes of spills" + (" - must have none" if wrong else ""))
            bad += wrong
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
