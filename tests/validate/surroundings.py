#!/usr/bin/env python3
"""surroundings.py VALIDATE VALIDATE_BROKEN GOLDEN PLUGINS SOURCE_DIR - what comes in from around
the program, and what it leaves there: bytes of any kind in messages, paths and commands; signals,
terminals' ends and full disks; numbers; where reports go. PLUGINS: the folder of
tests/validate/plugins."""
import csv, json, os, re, shlex, signal, subprocess, sys, tempfile, time
import xml.etree.ElementTree as xml

validate, broken, golden, plugins, source = sys.argv[1:6]
program = os.path.join(source, "tests/validate/plugins/broken_program.py")
folder = os.path.realpath(tempfile.mkdtemp())
temporary = os.path.join(folder, "tmp")
os.mkdir(temporary)
os.environ.update(TMPDIR=temporary, OMP_NUM_THREADS="1", LC_ALL="C.UTF-8")
failures = checks = 0
CASE = "b=1 hq=1 hkv=1 nq=3 nk=101 d=8"


def check(name, condition, more=""):
    global failures, checks
    checks += 1
    if not condition:
        failures += 1
        print("FAILED", name, more)


def run(*args, env=None, **more):
    """Exit code and both outputs, as bytes."""
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    p = subprocess.run(
        args, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, timeout=120, **more
    )
    return p.returncode, p.stdout or b"", p.stderr or b""


def path(name):
    return os.path.join(folder, name)


def is_visible(data):
    """UTF-8 without a control character but newlines, and nothing that reorders text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]", text
    )


# ---- text of any kind (12): every report is whole and valid, a terminal gets nothing that it would
# obey
def reports_of(name, command, env=None, code=1):
    """Runs with every report; the JSON's only result."""
    files = {kind: path(name + "." + kind) for kind in ("json", "html", "junit", "csv")}
    options = [part for kind, file in files.items() for part in ("--" + kind, file)]
    got, out, err = run(*command, "--case", CASE, "--annotations", "github", *options, env=env)
    check(name + ": exit code", got == code, (got, out, err))
    check(name + ": visible", is_visible(out) and is_visible(err), (out, err))
    try:
        for kind in ("html", "junit"):
            xml.parse(files[kind])
        rows = list(csv.DictReader(open(files["csv"], newline="", encoding="utf-8")))
        (result,) = json.load(open(files["json"], encoding="utf-8"))["results"]
        check(name + ": files agree", rows[0]["message"] == result["message"], (rows, result))
        return result
    except Exception as e:
        check(name + ": reports", False, (repr(e), out, err))
        return {"message": "", "repeat": ""}


library = [validate, "run", "--once", "--plugin", os.path.join(plugins, "plugin_broken.so")]
words = {
    "latin1": (b"Ger\xe4t fehlt ", "Ger\\xe4t fehlt Ger\\xe4t"),
    "utf8": ("デバイス".encode(), "デバイスデバイス"),
    "escape": (b"\x1b[31mred\x07\r\n", "\\x1b[31mred\\x07\\r\\n"),
    "bidi": ("a\u202eb".encode(), "a\\u202eb"),
    "c1": (b"\xc2\x9b31m", "\\u009b31m"),
    "overlong": (b"\xc0\xaf\xed\xa0\x80\xf5", "\\xc0\\xaf\\xed\\xa0\\x80\\xf5"),
}
for name, (said, seen) in words.items():
    result = reports_of(
        name, library, {"IFA_TEST_FAULT": "say", "IFA_TEST_WORDS": os.fsdecode(said)}
    )
    check(name + " is seen", seen in result["message"], result["message"])
    check(name + " is cut, and that shows", result["message"].endswith("..."), result["message"])
odd = os.fsdecode(b"it's \xe4 \x1b[31m %d \\n `x` $y \xe3\x83\x87")
command = "python3 %s say %s" % (shlex.quote(program), shlex.quote(odd))
result = reports_of("command", [validate, "run", "--once", "--exec", command])
check(
    "repeat is a command of this",
    result["repeat"].startswith("validate run --exec ") and " --once " in result["repeat"],
    result["repeat"],
)
result = reports_of(
    "a message",
    [
        validate,
        "run",
        "--once",
        "--exec",
        "python3 %s say %s" % (shlex.quote(program), shlex.quote("it's デ \x1b[31m\n")),
    ],
)
check(
    "a program says what it says",
    result["message"] == "no: 'it's デ \\x1b[31m\\n'",
    result["message"],
)
for bad in (b"\x1b[31m", b"\xe4", b"a\x1b", b"a\xe4,"):
    bad = os.fsdecode(bad)
    for args in (
        ["run", "--backend", bad],
        ["run", "--suite", bad],
        ["run", "--case", "d=" + bad],
        ["run", "--case", bad + "=1"],
        ["run", "--seed", bad],
        ["run", "--timeout", bad],
        ["run", "--annotations", bad],
        ["run", "--claim", bad],
        ["run", "--plugin", bad],
        ["run", bad],
        ["run", "--" + bad],
        ["run", "-" + bad],
        ["run", "--json", path("no/") + bad],
        ["run", "--plugin", os.path.join(plugins, "plugin_broken.so"), "--claim", bad],
        [bad],
        ["bench", "--repeat", bad],
        ["bench", "--backend", bad],
        ["fuzz", "--backend", bad],
        ["fuzz", "--violation", bad],
        ["mutants", "--only", bad],
        ["mutants", "--suite", bad],
        ["mutants", "--kernel", bad],
        ["accuracy", "--metric", bad],
        ["diff", bad, bad],
        ["report", "--html", path("x.html"), bad],
        ["attend", "--input", bad, "--output", path("o")],
        ["quantize", "--input", bad, "--output", path("o")],
        ["explain", "d=" + bad],
        ["export", "--case", "d=" + bad, "--output", path("o")],
        ["record", "--backend", bad, "--output", path("o")],
        ["record", "--backend", "scalar", "--commit", bad, "--output", path("o")],
    ):
        code, out, err = run(validate, *args)
        check(
            "%r is shown as it is not" % args, code == 2 and is_visible(out + err), (code, out, err)
        )
    suite = path("suite")
    open(suite, "wb").write(os.fsencode("d=8\n" + bad + "\n"))
    code, out, err = run(validate, "run", "--suite", suite)
    check("a suite of odd bytes", code == 2 and is_visible(out + err), (out, err))
odd_name = path(os.fsdecode(b"su\xe4te \x1b.txt"))
open(odd_name, "w").write(CASE + "\n")
code, out, err = run(
    validate, "mutants", "--suite", odd_name, "--only", "last-key-dropped", "--json", path("m.json")
)
check(
    "a suite of an odd name",
    code == 0
    and is_visible(out + err)
    and json.load(open(path("m.json")))["mutants"][0]["killed_by"]
    == {"su\\xe4te \\x1b.txt": CASE + " fill=normal seed=1"},
    (out, err),
)

# ---- the command that repeats a case survives a shell (19)
for text in (odd, "don't", "two words", "a;b", "", "\u202e"):
    command = "python3 %s say %s" % (shlex.quote(program), shlex.quote(text))
    _, out, _ = run(
        validate,
        "run",
        "--once",
        "--timeout",
        "7.5",
        "--exec",
        command,
        "--claim",
        "close",
        "--case",
        CASE,
    )
    repeat = re.search(rb"repeat: validate (run .*)", out).group(1)
    for shell in ("sh", "bash"):
        _, again, _ = run(shell, "-c", b'exec "$0" ' + repeat, validate)
        check("repeat of %r by %s" % (text, shell), again == out, (again, out))

# ---- nothing is cut (13)
long = "python3 %s arguments %s" % (
    shlex.quote(program),
    " ".join("word%05d" % i for i in range(3000)),
)
for option in ("--exec", "--exec-once"):
    code, out, err = run(
        validate, "run", "-v", option, long, "--case", CASE, "--json", path("long.json")
    )
    if option == "--exec":
        size = len(program) + len("arguments") + 3000 * len("word00000")
        check("a long command", (b"%d bytes" % size) in out, (code, out[:300], err))
result = reports_of(
    "a long command",
    [
        validate,
        "run",
        "--once",
        "--exec",
        "python3 %s status %s" % (shlex.quote(program), "x" * 20000),
    ],
)
check("its repeat is whole", "x" * 20000 in result["repeat"])
code, out, err = run(validate, "run", "--exec", "python3 %s long-claim" % program, "--case", CASE)
check("a long claim", code == 2 and b"claim has 197 characters; at most 191" in err, (code, err))
code, out, err = run(
    validate, "run", "--exec", "python3 %s %s" % (program, "n" * 60), "--case", CASE
)
check("a long name", b"n" * 44 + b"..." in out and b"n" * 45 not in out.split(b"repeat")[0], out)
script = path("k")
open(script, "w").write(
    '#!/bin/sh\nread l; echo \'{"name":"shell","claim":"exact"}\'\n'
    'read l; echo \'{"status":"unsupported","message":"said"}\'\n'
)
os.chmod(script, 0o755)
os.symlink(script, path("a b"))
for command in (
    "./k",
    "exec ./k",
    "command ./k",
    "eval ./k",
    ". ./k",
    "sh ./k",
    "sh k",
    "X=1 ./k",
    "if true; then ./k; fi",
    "'./a b'",
    '"./a b"',
    "./a\\ b",
    "cd . && ./k",
    "(./k)",
    " ./k",
    "env ./k",
    "true | true; ./k",
):
    code, out, err = run(validate, "run", "-v", "--exec", command, "--case", CASE, cwd=folder)
    check(
        "the command %r" % command,
        code == 3 and out.startswith(b"unsupported  shell  "),
        (code, out, err),
    )

# ---- processes (14, 15, 16)
once = path("once")
open(once, "w").write("#!/bin/sh\nexit 77\n")
os.chmod(once, 0o755)
for ignored in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP):
    for option, command in (("--exec-once", once), ("--exec", script)):
        code, out, err = run(
            validate,
            "run",
            option,
            command,
            "--case",
            CASE,
            preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN),
        )
        check(
            "%s ignored by the parent, %s" % (ignored, option),
            code == 3 and b" 1 unsupported" in out,
            (code, out, err),
        )
    code, out, err = run(
        validate,
        "fuzz",
        "--count",
        "5",
        "--backend",
        "scalar",
        preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN),
    )
    check("%s ignored by the parent, fuzz" % ignored, code == 0, (code, out, err))


def waits_until(condition, seconds=20):
    end = time.time() + seconds
    while not condition() and time.time() < end:
        time.sleep(0.01)
    return condition()


def group_is_gone(group):
    try:
        os.killpg(group, 0)
        return all(
            " Z " in line or line.startswith("Z") for line in os.popen("ps -o stat= -g %d" % group)
        )
    except ProcessLookupError:
        return True


def reset_signals():
    for s in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGPIPE,
        signal.SIGALRM,
        signal.SIGXCPU,
        signal.SIGXFSZ,
    ):
        signal.signal(s, signal.SIG_DFL)


for number in (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGXCPU,
    signal.SIGXFSZ,
):
    note = path("group-%d" % number)
    p = subprocess.Popen(
        [validate, "run", "--exec", "python3 %s orphan %s" % (program, note), "--case", CASE],
        stdin=subprocess.DEVNULL,
        preexec_fn=reset_signals,
    )
    check("it has begun", waits_until(lambda: os.path.exists(note) and open(note).read()))
    group = int(open(note).read())
    check("its folder is there", len(os.listdir(temporary)) == 1)
    p.send_signal(number)
    check("signal %d ends it by that signal" % number, p.wait(timeout=20) == -number, p.returncode)
    check("no folder is left", os.listdir(temporary) == [], os.listdir(temporary))
    check("no process is left", waits_until(lambda: group_is_gone(group)))
p = subprocess.Popen(
    [validate, "record", "--backend", "scalar", "--output", path("half.rec")],
    stdin=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    preexec_fn=reset_signals,
)
check(
    "a file has been begun",
    waits_until(
        lambda: os.path.exists(path("half.rec.tmp0")) and os.path.getsize(path("half.rec.tmp0")) > 0
    ),
)
p.send_signal(signal.SIGINT)
check(
    "no half of a file is left",
    p.wait(timeout=20) == -signal.SIGINT
    and not [n for n in os.listdir(folder) if n.startswith("half.rec")],
    os.listdir(folder),
)
note = path("group-nohup")
p = subprocess.Popen(
    [
        validate,
        "run",
        "--timeout",
        "1",
        "--exec",
        "python3 %s orphan %s" % (program, note),
        "--case",
        CASE,
    ],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
)
check("it has begun", waits_until(lambda: os.path.exists(note) and open(note).read()))
p.send_signal(signal.SIGHUP)
check(
    "a signal that is ignored is ignored",
    b"1 timed out" in p.communicate(timeout=20)[0] and p.returncode == 1,
)
for args in (
    ["run", "-v", "--backend", "scalar", "--suite", "smoke"],
    ["run", "-v", "--suite", "smoke", "--exec", script],
    ["fuzz", "--count", "20", "--backend", "scalar"],
):
    p = subprocess.Popen(
        [validate, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        preexec_fn=reset_signals,
    )
    p.stdout.close()
    check("a pipe that nobody reads ends it", p.wait(timeout=60) == -signal.SIGPIPE, p.returncode)
    check("no folder is left by it", os.listdir(temporary) == [], os.listdir(temporary))

# ---- an output that is lost is an error (17)
for args in (
    ["--help"],
    ["--version"],
    ["list"],
    ["run", "--help"],
    ["run", "--version"],
    ["run", "--backend", "scalar", "--case", CASE],
    ["run", "--case", "d=300"],
    ["run", "--backend", "scalar", "--case", "nq=0"],
    ["explain", CASE],
    ["mutants", "--list"],
    ["mutants", "--suite", odd_name, "--only", "last-key-dropped"],
    ["fuzz", "--count", "3", "--backend", "scalar"],
    ["accuracy", "--table", "paper", "--paper-tokens", "1024", "--paper-rows", "1"],
    ["bench", "--repeat", "1", "--backend", "scalar", "--case", CASE],
    ["record", "--backend", "scalar", "--suite", odd_name, "--output", path("r.rec")],
    ["diff", path("m.json"), path("m.json")],
    [
        "quantize",
        "--input",
        os.path.join(source, "data/real/minilm_layer0.safetensors"),
        "--output",
        path("q.safetensors"),
    ],
    [
        "attend",
        "--input",
        os.path.join(source, "data/real/minilm_layer0.safetensors"),
        "--output",
        path("o.safetensors"),
    ],
):
    with open("/dev/full", "w") as full:
        code, _, err = run(validate, *args, stdout=full)
    check(
        "a full standard output: %s" % args[0],
        code == 2 and b"the standard output cannot be written: No space left" in err,
        (args, code, err),
    )
with open("/dev/full", "w") as full:
    code, _, err = run(golden, "check", "scalar", path("r.rec"), stdout=full)
    check(
        "a full standard output: golden",
        code == 2 and b"the standard output cannot be written" in err,
        (code, err),
    )
    check(
        "a mismatch is the worse news",
        run(*library, "--case", CASE, env={"IFA_TEST_FAULT": "status"}, stdout=full)[0] == 1,
    )
check("a closed standard output", run("sh", "-c", 'exec "$0" list >&-', validate)[0] == 2)
check(
    "a report does not get its number",
    run(
        "sh",
        "-c",
        'exec "$0" run --backend scalar --case "$1" --json "$2" >&-',
        validate,
        CASE,
        path("closed.json"),
    )[0]
    == 2
    and json.load(open(path("closed.json"))),
)

# ---- the folder for temporary files (18): what is wrong with it is not the kernel's fault, and its
# name is not in a kernel's messages
status_of = lambda out: out.decode().splitlines()[-1] if out else ""
right = [validate, "run", "--exec", script, "--case", CASE]
check(
    "no such folder",
    run(*right, env={"TMPDIR": path("nowhere")})[::2]
    == (
        2,
        b"validate run: %s: no folder for the cases can be made in %s (TMPDIR): "
        b"No such file or directory\n" % (script.encode(), path("nowhere").encode()),
    ),
    run(*right, env={"TMPDIR": path("nowhere")}),
)
deep = folder
while len(deep) < 3000:
    deep = os.path.join(deep, "x" * 200)
os.makedirs(deep)
check("a long name of the folder", run(*right, env={"TMPDIR": deep})[0] == 3)
check(
    "too long a name",
    run(*right, env={"TMPDIR": deep + "/y" * 1000})[0] == 2
    and b"File name too long" in run(*right, env={"TMPDIR": deep + "/y" * 1000})[2],
)
odd_folder = path(os.fsdecode(b"tmp \xe4\n"))
os.mkdir(odd_folder)
code, out, err = run(*right, env={"TMPDIR": odd_folder})
check(
    "a name that JSON cannot hold",
    code == 2 and b"is not UTF-8" in err and is_visible(err),
    (code, out, err),
)
check(
    "and where it need not",
    run(validate, "run", "--exec-once", once, "--case", CASE, env={"TMPDIR": odd_folder})[0] == 3
    and os.listdir(odd_folder) == [],
)
for option in ("--exec", "--exec-once"):
    code, out, err = run(
        "sh",
        "-c",
        'trap "" XFSZ; ulimit -f 8; exec "$@"',
        "sh",
        validate,
        "run",
        option,
        {"--exec": script, "--exec-once": once}[option],
        "--case",
        "nq=100 nk=100 d=64",
        "--case",
        "nq=1 nk=1 d=1",
    )
    check(
        "a full folder, %s" % option,
        code == 2
        and b"INVALID" in out
        and b"FAILED" not in out
        and b"cannot write input.safetensors: File too large" in out
        and b"ifa-plugin" not in out
        and b" 1 invalid" in out,
        (code, out, err),
    )
small = path("small")  # a folder that has room for the case's files, and not for the output
os.mkdir(small)
mount = 'mount -t tmpfs -o size=56k tmpfs "$1" && shift && exec "$@"'
if run("unshare", "-rm", "sh", "-c", mount, "sh", small, "true")[0] == 0:
    code, out, err = run(
        "unshare",
        "-rm",
        "sh",
        "-c",
        mount,
        "sh",
        small,
        validate,
        "run",
        "--exec",
        "python3 %s zeros" % program,
        "--case",
        "nq=99 nk=1 d=64",
        env={"TMPDIR": small},
    )
    check(
        "no room for the output",
        code == 2
        and b"INVALID" in out
        and b"no room for the output in" in out
        and b"0 failed" in out,
        (code, out, err),
    )
else:
    print("not available: a small file system (no right to mount one)")
for fault in ("cut", "name", "folder", "nothing", "shape", "type"):
    _, out, _ = run(validate, "run", "--exec", "python3 %s %s" % (program, fault), "--case", CASE)
    check(
        "no temporary path: " + fault,
        b"output.safetensors" in out and b"ifa-plugin" not in out or fault in ("shape", "type"),
        out,
    )

# ---- numbers (20): all of the text, and nothing that does not fit
for args in (
    ["bench", "--repeat"],
    ["mutants", "--repeat"],
    ["run", "--seed"],
    ["run", "--timeout"],
    ["fuzz", "--count"],
    ["fuzz", "--seconds"],
    ["fuzz", "--seed"],
    ["fuzz", "--first"],
    ["fuzz", "--failures"],
    ["fuzz", "--limit"],
    ["accuracy", "--tokens"],
    ["accuracy", "--dim"],
    ["accuracy", "--rows"],
    ["accuracy", "--paper-rows"],
    ["accuracy", "--paper-tokens"],
    ["diff", "--noise"],
    *(
        ["run", "--case", key]
        for key in (
            "seed",
            "rows",
            "nq",
            "d",
            "qexp",
            "split",
            "tau",
            "tile",
            "window",
            "qblock",
            "causal",
            "smooth",
        )
    ),
):
    real = args[1] in ("--timeout", "--seconds", "--limit", "--noise")
    for value in (
        "",
        " 5",
        "5 ",
        "+5",
        "5x",
        "0x10",
        "-1",
        "5,",
        "nan",
        "inf",
        "1e",
        ".",
        "99999999999999999999",
        "18446744073709551617",
        "1e999",
        *(() if real else ("1e2", "5.0", "4294967297")),
    ):
        if len(args) == 3:
            if (
                value.strip() != value
                or value in ("5,", "-1")
                or args[2] == "tau"
                and value == "inf"
                or value == "4294967297"
                and args[2] in ("seed", "rows", "nq", "split", "window")
            ):
                continue
            code, out, err = run(
                validate, "run", "--backend", "scalar", "--case", args[2] + "=" + value
            )
        else:
            if value == "4294967297" and args[1] in ("--seed", "--first", "--count"):
                continue
            code, out, err = run(validate, args[0], args[1] + "=" + value)
        check("%s %r" % (args[1:], value), code == 2 and b"passed" not in out, (code, out, err))
for name, options in (
    ("bench_cpu", ("--repeat", "--threads", "--scale")),
    ("bench_cache", ("--repeat", "--threads", "--tokens")),
):
    other = os.path.join(os.path.dirname(validate), "../cpu", name)
    for option in options if os.path.exists(other) else ():
        for value in ("5x", "4294967297", " 5", "", "0x1") + (
            () if option == "--scale" else ("1e2",)
        ):
            check(
                "%s %s %r" % (name, option, value),
                run(other, option + "=" + value)[0] not in (0, -signal.SIGABRT),
            )
check(
    "what is one",
    run(
        validate,
        "run",
        "--timeout",
        "1.5e1",
        "--backend",
        "scalar",
        "--case",
        CASE + " seed=18446744073709551615",
    )[0]
    == 0,
)

# ---- where reports go, versions, byte order marks (23)
one = [validate, "run", "--backend", "scalar", "--case", CASE]
for name in ("-", "/dev/stdout", "/dev/fd/1"):
    code, out, err = run(*one, "--json", name)
    check(
        "JSON to " + name,
        code == 0 and json.loads(out)["counts"]["passed"] == 1 and b"1 passed" in err,
        (code, out, err),
    )
with open(path("out.json"), "w") as file:
    run(*one, "--json", "/dev/stdout", stdout=file)
check("and on into a file", json.load(open(path("out.json")))["counts"]["passed"] == 1)
check("no file of that name", not os.path.exists("-") and not os.path.exists("-.tmp0"))
for kind in ("html", "junit"):
    xml.fromstring(run(*one, "--" + kind, "-")[1])
check("only one report", run(*one, "--json", "-", "--csv", "/dev/stdout")[0] == 2)
check("a report to a device", run(*one, "--json", "/dev/null")[0] == 0)
check(
    "a report to a pipe",
    b'"passed": 1'
    in run(
        "bash",
        "-c",
        'exec 3>&1; "$0" run --backend scalar --case "$1" --json >(cat >&3)',
        validate,
        CASE,
    )[1],
)
code, out, err = run(*one, "--json", "/dev/full")
check(
    "a report that is lost",
    code == 2 and b"No space left" in err and b"1 passed" in out,
    (code, out, err),
)
for args in (
    ["run", "--case", CASE, "--json"],
    ["run", "--case", CASE, "--html"],
    ["run", "--case", CASE, "--junit"],
    ["run", "--case", CASE, "--csv"],
    ["accuracy", "--json"],
    ["accuracy", "--csv"],
    ["bench", "--json"],
    ["fuzz", "--json"],
    ["mutants", "--json"],
    ["report", path("m.json"), "--html"],
    ["record", "--backend", "scalar", "--output"],
    ["attend", "--input", "/nowhere", "--output"],
    ["quantize", "--input", "/nowhere", "--output"],
    ["export", "--case", CASE, "--output"],
):
    for name in (path("no/report"), folder):
        code, out, err = run(validate, *args, name)
        check(
            "%s cannot be written, and that is said before" % args,
            code == 2 and out == b"" and b"cannot" in err and b".tmp0" not in err,
            (code, out, err),
        )
version = (
    re.search(r'IFA_VERSION "([^"]*)"', open(os.path.join(source, "include/ifa.h")).read())
    .group(1)
    .encode()
)
for args in (["--version"], ["-V"], *([c, "--version"] for c in ("run", "attend", "list", "diff"))):
    code, out, err = run(validate, *args)
    check(
        "version of %s" % args,
        code == 0
        and out.startswith(b"validate " + version + b", contract ")
        and out.count(b"\n") == 1,
        (code, out, err),
    )
marked = path("marked.txt")
open(marked, "w", encoding="utf-8-sig").write(CASE + "\n")
check(
    "a byte order mark before a suite",
    b"1 passed" in run(validate, "run", "--backend", "scalar", "--suite", marked)[1],
)
open(marked, "w").write(CASE + "\n\ufeff" + CASE + "\n")
code, out, err = run(validate, "run", "--backend", "scalar", "--suite", marked)
check("and within one", code == 2 and is_visible(err), err)
open(path("marked.json"), "w", encoding="utf-8-sig").write(open(path("m.json")).read())
check(
    "a byte order mark before a report",
    run(validate, "diff", path("m.json"), path("marked.json"))[0] == 0,
)
open(marked, "w").write("include smoke d=8\n")
check("nothing behind an include", run(validate, "run", "--suite", marked)[0] == 2)

# ---- input files (21, 22, 11, 24): any name, read once, no more than is needed
import struct

numbers = [i * i * 37 % 101 / 50 - 1 for i in range(2 * 70 * 8)]


def tensors(name, k=numbers, more=0, shape=(1, 2, 70, 8)):
    """q, k, v, and before them a tensor of `more` bytes that is a hole of the file."""
    size, place = 4 * len(numbers), more
    head = {"a": {"dtype": "U8", "shape": [more], "data_offsets": [0, more]}}
    for n in "qkv":
        head[n] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(head).encode()
    with open(name, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(more, 1)
        for values in (numbers, k, numbers):
            file.write(struct.pack("<%df" % len(values), *values))
    return name


names = [
    "a b.safetensors",
    "a,b.safetensors",
    os.fsdecode("daß デ.safetensors".encode()),
    os.fsdecode(b"\xe4\xf6.safetensors"),
    "50%.x",
    "%41.x",
    "#.x",
    "tab\tnew\nline\x1b[31m.x",
    '"$x`.x',
    "-",
    "plain",
    *["x" * 200 + "/" + "y" * 200 + "/z.safetensors"],
]
for name in names:
    where = path(os.path.join("in", name))
    os.makedirs(os.path.dirname(where), exist_ok=True)
    tensors(where)
    code, out, err = run(
        validate, "attend", "--input", where, "--output", path("o.safetensors"), "vscale=token"
    )
    check(
        "attend of %r" % name,
        code == 0 and is_visible(out + err) and b"relative L2" in out,
        (code, out, err),
    )
    code, out, err = run(validate, "attend", "--input", where, "--output", where + ".o")
    check(
        "attend to %r" % name,
        code == 0 and is_visible(out + err) and os.path.exists(where + ".o"),
        (code, out, err),
    )
    code, out, err = run(validate, "quantize", "--input", where, "--output", path("q.safetensors"))
    check("quantize of %r" % name, code == 0, (code, out, err))
    code, out, err = run(
        validate,
        "run",
        "-v",
        "--backend",
        "scalar",
        "--input",
        where,
        "--case",
        "vscale=token",
        "--json",
        path("in.json"),
    )
    check("run of %r" % name, code == 0 and is_visible(out + err), (code, out, err))
    (case,) = (r["case"] for r in json.load(open(path("in.json")))["results"])
    check(
        "its case is a word",
        re.fullmatch("[ -~]*", case) and '"' not in case and "#" not in case,
        case,
    )
    code, out, err = run(
        "sh", "-c", 'exec "$0" run -v --backend scalar --case "%s"' % case, validate
    )
    check("which can be pasted back", code == 0 and case.encode() in out, (code, out, err))
    open(path("pasted.txt"), "w").write(case + " # a comment\n")
    check(
        "into a suite too",
        run(validate, "run", "--backend", "scalar", "--suite", path("pasted.txt"))[0] == 0,
    )
for name in ("plain", "-", "%41.x"):
    code, out, err = run(validate, "attend", "-i", name, "-o", "o", cwd=path("in"))
    check("a name without a folder", code == 0, (code, out, err))

# a sanitizer needs more than any limit of address space
limit = (
    "ulimit -v 2000000; "
    if run("sh", "-c", 'ulimit -v 2000000; exec "$0" --version', validate)[0] == 0
    else ""
)
large = tensors(path("large.safetensors"), more=3 * 2**30 + 1)
for args in (
    ["attend", "--output", path("o.safetensors"), "--input"],
    ["quantize", "--output", path("o.safetensors"), "--input"],
    ["run", "--backend", "scalar", "--input"],
):
    code, out, err = run("sh", "-c", limit + 'exec "$@"', "sh", validate, *args, large)
    check("3 GiB that nobody needs are not read: %s" % args[0], code == 0, (code, out, err))
os.remove(large)
code, out, err = run(
    validate, "attend", "--no-check", "--input", where, "--output", path("unchecked.safetensors")
)
check(
    "attend without its check",
    code == 0 and b"binary64" not in out and b"relative L2" not in out,
    (code, out, err),
)
run(validate, "attend", "--input", where, "--output", path("checked.safetensors"))
check(
    "gives the same",
    open(path("unchecked.safetensors"), "rb").read()
    == open(path("checked.safetensors"), "rb").read(),
)

named = os.path.join(os.path.dirname(where), os.fsdecode("daß.safetensors".encode()))
for args in (
    ["attend", "--output", path("o3.safetensors"), "--input", named],
    ["run", "--input", named],
    ["attend", "--input", where, "--output", named + "/x"],
    ["run", "--json", named + "/x"],
):
    code, out, err = run(validate, *args)
    check(
        "a name that is not ASCII is said as it is: %s" % args[0],
        code == 2 and "daß.safetensors".encode() in out + err,
        (code, out, err),
    )
wrong = path("in/wrong tensors.safetensors")
for what, said in (
    ("inf", b"k[0][0][0][3] is -inf"),
    ("shape", b"dimensions"),
    ("head", b"head_dim is"),
    ("cut", b"past"),
    ("none", b"No such file"),
):
    tensors(
        wrong,
        numbers[:3] + [-float("inf") if what == "inf" else numbers[3]] + numbers[4:],
        shape={"shape": (2 * 70 * 8,), "head": (1, 1, 1, 2 * 70 * 8)}.get(what, (1, 2, 70, 8)),
    )
    if what == "cut":
        os.truncate(wrong, 5000)
    if what == "none":
        os.remove(wrong)
    for args in (
        ["attend", "--output", path("o3.safetensors")],
        ["quantize", "--output", path("o3.safetensors")],
        ["run", "--backend", "scalar", "--case", "lse=1"],
        ["explain", None],
        ["bench", None],
    ):
        if args[1] is None:
            args = [args[0], "--case", "input=" + wrong.replace(" ", "%20")]
            code, out, err = run(validate, *args)
        else:
            code, out, err = run(validate, *args, "--input", wrong)
        check(
            "%s: %s names the file" % (what, args[0]),
            code == 2 and b"wrong tensors.safetensors" in out + err and said in out + err,
            (code, out, err),
        )
code, out, err = run(
    validate, "quantize", "--input", where, "--output", path("q.safetensors"), "vscale=token"
)
for keys, said in (
    (["vscale=channel"], b"v_scale has"),
    (["vscale=token", "smooth=1"], b"quantized already"),
    (["q=int4", "vscale=token"], b"INT4 holds"),
):
    code, out, err = run(
        validate,
        "attend",
        "--input",
        path("q.safetensors"),
        "--output",
        path("o3.safetensors"),
        *keys,
    )
    check(
        "attend %s names the file" % keys,
        code == 2 and b"q.safetensors" in err and said in err,
        (code, err),
    )

check(
    "nothing is left behind",
    os.listdir(temporary) == [] and not [n for n in os.listdir(folder) if ".tmp" in n],
    os.listdir(folder),
)

print("%d checks, %d failed" % (checks, failures))
sys.exit(failures > 0)
