#!/usr/bin/env python3
"""check_house.py [SOURCE_DIR]: who may include whom. Exit codes: 0 all hold, 1 not.

A file may include its own folder, include/, and the folders that its folder's line names (and what
lies below them, where the line says so with a '/')."""
import os
import re
import sys

MAY_INCLUDE = {
    "include": "",
    "common": "",
    "files": "common",
    "ref": "common",
    "ref/baselines": "common",
    "cpu": "common cpu/kernels cpu/quantize",
    "cpu/kernels": "common tests/cpu",  # the emulated AMX tiles
    "cpu/quantize": "common cpu/kernels",
    "cpu/cache": "common cpu cpu/kernels cpu/quantize",
    "cpu/bench": "common cpu cpu/kernels cpu/cache ref/baselines validate/bench validate/text",
    "gpu": "common gpu/",
    "gpu/parts": "common gpu tests/gpu/emulation",
    "gpu/sm80": "common gpu gpu/parts",
    "gpu/sm90": "common gpu gpu/parts tests/gpu/emulation",
    "gpu/quantize": "common gpu gpu/parts",
    "gpu/steps": "common gpu gpu/parts tests/gpu/emulation",
    "gpu/bench": "common gpu gpu/steps",
    "gpu/tests": "common gpu",
    "gpu/mutants": "common gpu gpu_mutants/",
    "api": "common",
    "tools": "",
    "validate/text": "",
    "validate/bench": "common cpu/bench",
    "validate/cases": "common files validate/text",
    "validate/judge": "common files ref ref/baselines validate/bench validate/cases validate/text",
    "validate/kernels": "common files validate/cases validate/judge validate/text",
    "validate/reports": "common files validate/bench validate/cases validate/judge validate/kernels validate/text",
    "validate/fuzz": "common validate/cases validate/judge validate/kernels",
    "validate/diagnosis": "common ref validate/cases validate/judge validate/mutants",
    "validate/mutants": "common ref ref/baselines gpu/mutants validate/cases validate/judge",
    "validate/library": "files validate/cases validate/kernels validate/reports",
    "validate/commands": "common files ref ref/baselines gpu/bench gpu/mutants gpu/steps validate/",
    "validate": "validate/ files gpu/steps",
    "examples": "",
    "examples/plugin_c": "",
}
source = sys.argv[1] if len(sys.argv) > 1 else "."
listed = sorted(
    os.path.relpath(os.path.join(at, name), source)
    for top in sorted({folder.split("/")[0] for folder in MAY_INCLUDE})
    for at, _, names in os.walk(os.path.join(source, top))
    for name in names
    if name.endswith((".c", ".h", ".cu", ".cuh"))
)
wrong = count = 0
for path in listed:
    folder = path.rsplit("/", 1)[0]
    if folder not in MAY_INCLUDE:
        print(f"{path}: tools/check_house.py does not know the folder {folder}")
        wrong += 1
        continue
    allowed = MAY_INCLUDE[folder].split()
    for number, line in enumerate(open(f"{source}/{path}", encoding="utf-8"), 1):
        found = re.match(r'\s*#\s*include "(?:(.*)/)?[^/"]+"', line)
        if not found:
            continue
        count += 1
        other = found[1] or "include"
        if other not in (folder, "include", *allowed) and not any(
            a.endswith("/") and (other + "/").startswith(a) for a in allowed
        ):
            print(f"{path}:{number}: {folder} may not include {other}")
            wrong += 1
print(f"includes: {count - wrong} as they should be, {wrong} not")
sys.exit(1 if wrong or not count else 0)
