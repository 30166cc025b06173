#!/usr/bin/env python3
"""broken_program.py FAULT - a program behind --exec that breaks in the named way. Needs no
package."""
import json
import os
import signal
import sys
import time

fault = sys.argv[1]


def say(answer):
    sys.stdout.write((answer if isinstance(answer, str) else json.dumps(answer)) + "\n")
    sys.stdout.flush()


def output(folder, shape, dtype="F32", size=4, cut=0):
    count = shape[0] * shape[1] * shape[2] * shape[3] * size
    head = json.dumps({"o": {"dtype": dtype, "shape": shape, "data_offsets": [0, count]}}).encode()
    value = b"\x00\x00\xc0\x7f" if fault == "nan" else b"\0" * size
    with open(folder + "/output.safetensors", "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + value * (count // size - cut))


for line in sys.stdin:
    request = json.loads(line)
    if request["request"] == "hello":
        if fault == "hello-exit":
            sys.exit(5)
        if fault == "hello-garbage":
            say("Loading model...")
        claim = "close q=f32 k=f32 v=f32"
        if fault == "claim":
            claim = "perfect"
        if fault == "long-claim":  # cut after 191 characters it is another valid claim
            claim = "close q=f16" + " " * 180 + "p=bf16"
        say({"name": fault if fault == "n" * 60 else "broken", "claim": claim})
        continue
    p, folder = request["problem"], request["folder"]
    shape = [p["b"], p["hq"], p["nq"], p["d"]]
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "exit":
        sys.exit(0)
    elif fault == "hang":
        time.sleep(1000)
    elif fault == "orphan":  # a process that would outlive both
        if os.fork() == 0:
            while True:
                time.sleep(0.1)
        open(sys.argv[2], "w").write(str(os.getpgid(0)))
        time.sleep(1000)
    elif fault == "arguments":
        say({"status": "unsupported", "message": "%d bytes" % sum(map(len, sys.argv))})
        continue
    elif fault == "say":
        say({"status": "no", "message": sys.argv[2]})
        continue
    elif fault == "deaf":
        sys.stdout.close()
        os.close(1)
        time.sleep(1000)
    elif fault == "garbage":
        say("step 1 of 7")
    elif fault == "long":
        say("[" * 100000)
    elif fault == "array":
        say([1, 2])
    elif fault == "shape":
        output(folder, [shape[0], shape[2], shape[1], shape[3]])
    elif fault == "type":
        output(folder, shape, "F16", 2)
    elif fault == "cut":
        output(folder, shape, cut=1)
    elif fault == "name":
        open(folder + "/output.safetensors", "wb").write((2).to_bytes(8, "little") + b"{}")
    elif fault == "folder":
        os.mkdir(folder + "/output.safetensors")
    elif fault in ("nan", "zeros"):
        output(folder, shape)
    elif fault == "status":
        say({"status": "no luck", "message": "really\nnone"})
        continue
    say({"status": "ok"})
