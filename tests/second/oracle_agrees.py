"""oracle_agrees.py VALIDATE FILE...: does the oracle give the answers that second.py wrote into
these files?

Each file holds float q, k, v, the quantized operands and scales, o and lse, and the problem in its
metadata (see second.py). The floats go through `validate quantize` and `validate attend`, and every
tensor is compared byte for byte. """
import json
import os
import struct
import subprocess
import sys
import tempfile

SIZES = {"b", "hq", "hkv", "nq", "nk", "d"}  # come from the file


def load(path):
    with open(path, "rb") as file:
        raw = file.read()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = raw[8 + length :]
    return {
        name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])])
        for name, t in header.items()
    }, metadata


def differing(validate, path, folder):
    expected, metadata = load(path)
    keys = [word for word in metadata["problem"].split() if word.split("=")[0] not in SIZES] + [
        "smooth=" + metadata["smooth"]
    ]
    names = []
    for command in ("quantize", "attend"):
        output = os.path.join(folder, "out.safetensors")
        extra = ["--backend", "scalar"] if command == "attend" else []
        subprocess.run(
            [validate, command, "--input", path, "--output", output, *extra, *keys],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        got, _ = load(output)
        names += [name for name in got if got[name] != expected[name]]
    return names


def main(validate, paths):
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            names = differing(validate, path, folder)
            if names:
                bad += 1
                print("DIFFER", path, ", ".join(names))
    print(f"{len(paths) - bad} agree, {bad} differ")
    return 1 if bad or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
