#!/usr/bin/env python3
"""reports.py VALIDATE VALIDATE_BROKEN - report files and what is made of them: pages, differences,
annotations; hostile and truncated files."""
import copy, json, os, random, re, subprocess, sys, tempfile
import xml.etree.ElementTree as xml

validate, broken = sys.argv[1:3]
folder = tempfile.mkdtemp()
failures = checks = 0
HOSTILE = '<script>alert("x")</script>&amp;\'"\u202e%0a::error::,:\n]]>'


def check(name, condition, more=""):
    global failures, checks
    checks += 1
    if not condition:
        failures += 1
        print("FAILED", name, more)


def run(*args, env=None):
    p = subprocess.run(
        args,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    return p.returncode, p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")


def write(name, document):
    path = os.path.join(folder, name)
    with open(path, "w") as f:
        f.write(document if isinstance(document, str) else json.dumps(document))
    return path


def page_of(*documents):
    """The page, as a tree and as text; it must be well-formed."""
    paths = [write("page%d.json" % i, d) for i, d in enumerate(documents)]
    out = os.path.join(folder, "page.html")
    code, _, error = run(validate, "report", "--html", out, *paths)
    check("report is written", code == 0, error)
    text = open(out, encoding="utf-8").read()
    return xml.fromstring(text), text


def words(tree):
    return " ".join(tree.itertext())


def head(kind, **more):
    return {
        "kind": kind,
        "version": "0",
        "contract": 2,
        "machine": {"processor": "p", "compiler": "c", "threads": 2},
        **more,
    }


def result(case, verdict="passed", backend="scalar", **more):
    return {
        "case": case,
        "backend": backend,
        "verdict": verdict,
        "digest": "00",
        "seconds": 0.5,
        **more,
    }


def diff(old, new, *options):
    return run(validate, "diff", *options, write("old.json", old), write("new.json", new))


# ---- a run's own page and annotations
one = "b=1 hq=2 hkv=1 nq=9 nk=70 d=16"
out = os.path.join(folder, "run.html")
code, text, error = run(validate, "run", "--backend", "scalar", "--case", one, "--html", out)
check("run --html", code == 0, error)
text = open(out, encoding="utf-8").read()
tree = xml.fromstring(text)
check("its verdict", tree.find(".//h1").text == "Passed")
check("nothing from outside", not re.search(r"https?:|\bsrc=|@import|url\(", text))
check("the case is a row of a table", any(one in words(row) for row in tree.iter("tr")))
code, text, _ = run(
    validate,
    "run",
    "--backend",
    "scalar",
    "--case",
    one,
    "--html",
    os.path.join(folder, "no", "x.html"),
)
check("a page that cannot be written", code == 2)
code, text, _ = run(
    validate, "run", "--backend", "scalar", "--case", one, "--annotations", "gitlab"
)
check("unknown annotations", code == 2)
code, text, _ = run(
    validate, "run", "--backend", "scalar", "--case", one, "--annotations", "github"
)
check("no failure, no annotation", code == 0 and "::" not in text)
if (
    "openmp" in run(validate, "run", "-v", "--backend", "openmp", "--case", one)[1]
    and run(validate, "run", "--backend", "openmp", "--case", one)[0] == 0
):
    js = os.path.join(folder, "broken.json")
    code, text, _ = run(
        broken,
        "run",
        "--backend",
        "openmp",
        "--case",
        one,
        "--annotations",
        "github",
        "--html",
        out,
        "--json",
        js,
        env={"IFA_BROKEN": "unit"},
    )
    lines = [line for line in text.splitlines() if line.startswith("::")]
    check("one annotation for one failure", code == 1 and len(lines) == 1, lines)
    check(
        "with the command, on one line",
        re.match(
            r'::error title=openmp%3A failed::unit differs .*%0Arepeat: validate run --backend openmp --case "b=1 ',
            lines[0],
        ),
        lines,
    )
    tree = xml.fromstring(open(out, encoding="utf-8").read())
    check("a failure's page", tree.find(".//h1").text == "Failed")
    check(
        "its command",
        any("validate run --backend openmp --case" in (p.text or "") for p in tree.iter("pre")),
    )
    good = os.path.join(folder, "good.json")
    run(validate, "run", "--backend", "openmp", "--case", one, "--json", good)
    check(
        "a failure is found by diff",
        run(validate, "diff", good, js)[0] == 1 and run(validate, "diff", js, good)[0] == 0,
    )

# ---- an invalid case is in every report: nothing was compared there, and that must show
paths = {kind: os.path.join(folder, "invalid." + kind) for kind in ("json", "html", "junit", "csv")}
code, text, _ = run(
    validate,
    "run",
    "--backend",
    "scalar",
    "--case",
    one,
    "--case",
    "d=300",
    *(word for kind in paths for word in ("--" + kind, paths[kind])),
)
check("an invalid case", code == 2 and "INVALID" in text, text)
texts = {kind: open(paths[kind], encoding="utf-8", newline="").read() for kind in paths}
check(
    "in JSON",
    json.loads(texts["json"])["invalid"]
    == [
        {
            "case": "b=1 hq=1 hkv=1 nq=1 nk=1 d=300 fill=normal seed=1",
            "message": "bad problem: head_dim is 300; it must be 1 .. 256",
        }
    ],
)
suite = xml.fromstring(texts["junit"])
check(
    "in JUnit",
    suite.get("errors") == "1"
    and suite.get("tests") == "2"
    and len(suite.findall("testcase/error")) == 1,
)
check("in CSV", texts["csv"].split("\r\n")[2].split(",")[1:3] == ["", "invalid"], texts["csv"])
check(
    "on the page",
    xml.fromstring(texts["html"]).find(".//h1").text == "Failed"
    and "head_dim is 300" in words(xml.fromstring(texts["html"])),
)

# ---- bench writes what report and diff read
js = os.path.join(folder, "measured.json")
code, text, error = run(
    validate,
    "bench",
    "--repeat",
    "3",
    "--backend",
    "scalar,openmp",
    "--case",
    one + " vscale=token",
    "--json",
    js,
)
check("bench", code == 0 and "scalar" in text, error)
measured = json.load(open(js))
check(
    "a line for each subject, in order",
    measured["results"][0]["subject"] == "scalar, 1 thread"
    and all(
        0 < r["least"] <= r["median"] <= r["most"] and r["rate"] > 0 for r in measured["results"]
    ),
)
check(
    "ceilings of this run",
    any(c["name"] == "reading memory" and c["median"] > 0 for c in measured["ceilings"]),
)
check("bench against itself", run(validate, "diff", js, js)[0] == 0)
check("its page", "Speed" in words(page_of(measured)[0]))
check("bench of nothing", run(validate, "bench", "--backend", "nothing")[0] == 2)

# ---- pages of hostile names
failure = result(
    HOSTILE,
    "failed",
    HOSTILE,
    message=HOSTILE,
    repeat='validate run --case "%s"' % HOSTILE,
    stage=HOSTILE,
    places=[{"where": HOSTILE, "expected": HOSTILE, "got": HOSTILE}],
)
near = result(
    "near",
    "passed",
    HOSTILE,
    distance={
        "relative_l2": 1e-3,
        "cosine": 0.9999,
        "worst_row": 0.1,
        "worst_row_at": HOSTILE,
        "max_ulp": 3,
        "max_ulp_at": HOSTILE,
    },
)
run_json = head(
    "run",
    counts={"invalid": 0},
    results=[
        result("a"),
        failure,
        near,
        result("b", "not available"),
        result("b", "not available", "gpu", message=HOSTILE),
    ],
)
accuracy = head(
    "accuracy",
    results=[
        {
            "table": t,
            "algorithm": a,
            "data": d,
            "case": HOSTILE,
            "keys": "",
            "relative_l2": e,
            "mean_relative": e,
            "mre": e,
            "cosine": 1,
            "worst_row": e,
        }
        for t in ("fills", "paper")
        for d in ("normal 1k", HOSTILE)
        for a in (HOSTILE, "fp8-e5m2")
        for e in (0.1,)
    ],
    published=[{"algorithm": "fp8-e5m2", "fill": "normal", "tokens": 1024, "mre": 0.07}],
)
mutants = head(
    "mutants",
    passed=False,
    suites={HOSTILE: {"cases": 3, "killed": 1}},
    mutants=[
        {
            "name": HOSTILE,
            "part": HOSTILE,
            "what": HOSTILE,
            "killed": True,
            "equivalent": False,
            "killed_by": {HOSTILE: HOSTILE},
        },
        {
            "name": "m",
            "part": "",
            "what": "",
            "killed": False,
            "equivalent": False,
            "killed_by": {HOSTILE: None},
        },
    ],
)
bench = head(
    "bench",
    ceilings=[{"name": HOSTILE, "unit": HOSTILE, "median": 5}],
    results=[
        {
            "case": HOSTILE,
            "subject": s,
            "median": 1,
            "least": 0.9,
            "most": 1.1,
            "rate": 3,
            "ceiling": 5,
        }
        for s in ("a", HOSTILE)
    ],
)
tree, _ = page_of(
    head(
        "mutants",
        passed=True,
        suites={
            "a": {"cases": 3, "tried": 2, "killed": 1},
            "b": {"cases": 1, "tried": 1, "killed": 1},
        },
        mutants=[
            {
                "name": "x",
                "part": "p",
                "what": "w",
                "killed": True,
                "equivalent": False,
                "killed_by": {"a": "case"},
            },
            {
                "name": "y",
                "part": "p",
                "what": "w",
                "killed": True,
                "equivalent": False,
                "killed_by": {"a": None, "b": "case"},
            },
        ],
    )
)
cells = [["".join(cell.itertext()) for cell in row][2:] for row in tree.iter("tr")][1:]
check(
    "what was not tried survives nothing",
    cells == [["killed", "not tried"], ["not noticed", "killed"]]
    and "kills 1 of the 2 tried with 3 cases" in words(tree),
    cells,
)
check("nor is it red", not [cell for cell in tree.iter("td") if cell.get("class") == "survived"])
documents = [run_json, accuracy, mutants, bench]
tree, text = page_of(*documents)
check(
    "one script, ours",
    len(list(tree.iter("script"))) == 1
    and 'alert("x")' in words(tree)
    and "<script>alert" not in text,
)
check("nothing from outside, again", not re.search(r"https?:|\bsrc=|@import|url\(", text))
check("plots", len(list(tree.iter("svg"))) >= 3 and len(list(tree.iter("circle"))) == 5)
check(
    "an absent backend is a line, not rows",
    "Not available here, and counted as not run (1 comparisons)" in words(tree),
)
check("verdict of all", tree.find(".//h1").text == "Failed" and "1 mutants survive" in words(tree))
tree, _ = page_of(head("run", counts={}, results=[result("a", "not available")]))
check("nothing executed is no pass", tree.find(".//h1").text == "Nothing was executed")
tree, _ = page_of(bench)
check("figures have no verdict", tree.find(".//h1").text == "Measured")

# ---- differences
base = head(
    "run",
    counts={},
    results=[result("a"), result("b", "failed"), result("c"), result("d", "unsupported")],
)


def changed(**verdicts):
    new = copy.deepcopy(base)
    for r in new["results"]:
        r["verdict"] = verdicts.get(r["case"], r["verdict"])
    return new


check(
    "no change",
    diff(base, base)
    == (0, "still failing:\n  scalar  b  failed -> failed\n1 still failing, 3 unchanged\n", ""),
)
code, text, _ = diff(base, changed(a="failed"))
check(
    "newly failing", code == 1 and "1 newly failing" in text and "a  passed -> failed" in text, text
)
check("crashed is failing", diff(base, changed(a="crashed"))[0] == 1)
code, text, _ = diff(base, changed(b="passed"))
check("fixed", code == 0 and "1 fixed" in text, text)
code, text, _ = diff(base, changed(a="not available"))
check("no longer checked", code == 1 and "1 no longer checked" in text, text)
gone = copy.deepcopy(base)
gone["results"].pop(0)
check("gone", diff(base, gone)[0] == 1 and diff(base, gone, "--allow-missing")[0] == 0)
check("new", diff(gone, base)[0] == 0 and "1 new" in diff(gone, base)[1])
more = copy.deepcopy(base)
more["results"].append(result("e", "failed"))
check("new and failing", diff(base, more)[0] == 1)
twice = copy.deepcopy(base)
twice["results"].append(result("a", "failed"))
check("the second of a name", diff(base, twice)[0] == 1 and "a #2" in diff(base, twice)[1])
bits = copy.deepcopy(base)
bits["results"][0]["digest"] = "01"
check("changed bits", diff(base, bits)[0] == 1 and "1 changed bits" in diff(base, bits)[1])
check("another contract has other bits", diff(base, {**bits, "contract": 3})[0] == 0)


def timed(least, median, most):
    return head(
        "bench",
        results=[
            {"case": "c", "subject": "s", "least": least, "median": median, "most": most, "rate": 1}
        ],
    )


check("slower", diff(timed(1, 1.1, 1.2), timed(1.3, 1.4, 1.5))[0] == 1)
check("faster", "1 better" in diff(timed(1.3, 1.4, 1.5), timed(1, 1.1, 1.2))[1])
check("spreads that meet are no change", diff(timed(1, 1.1, 1.4), timed(1.3, 1.4, 1.5))[0] == 0)
check(
    "nor is what is within the noise", diff(timed(1, 1.01, 1.02), timed(1.03, 1.04, 1.05))[0] == 0
)
check(
    "unless the noise is less",
    diff(timed(1, 1.01, 1.02), timed(1.03, 1.04, 1.05), "--noise", "1")[0] == 1,
)
worse = copy.deepcopy(accuracy)
worse["results"][0]["relative_l2"] = 0.2
check("less accurate", diff(accuracy, worse)[0] == 1 and diff(worse, accuracy)[0] == 0)
lost = copy.deepcopy(mutants)
lost["mutants"][0]["killed"] = False
check("a mutant survives now", diff(mutants, lost)[0] == 1)
check("kinds differ", diff(base, bench)[0] == 2)
check("one file", run(validate, "diff", write("old.json", base))[0] == 2)
check(
    "no file",
    run(validate, "diff", write("old.json", base), os.path.join(folder, "nowhere"))[0] == 2,
)
check("a folder", run(validate, "diff", folder, folder)[0] == 2)

# ---- files that are not what they should be: 2 with one line, or a page that is well-formed; never
# anything else
bad = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    '"run"',
    '{"kind": 3}',
    '{"kind": "run"}',
    '{"kind": "run", "results": {}}',
    '{"kind": "run", "results": [1]}',
    '{"kind": "run", "kind": "run", "results": []}',
    '{"kind": "run", "results": [{"case": "a", "backend": "b"}]}',
    "\x00",
    "[" * 100000,
    '{"a":' * 5000,
    '{"kind": "ru\\u0000n"}',
]
for text in bad:
    path = write("bad.json", text)
    code, _, error = run(validate, "diff", path, path)
    check("unusable: %.30r" % text, code == 2 and error.count("\n") == 1, (code, error))
for document in documents:
    text = json.dumps(document)
    for cut in range(1, len(text), max(1, len(text) // 8)):
        path = write("cut.json", text[:cut])
        code, _, error = run(validate, "report", "--html", os.path.join(folder, "cut.html"), path)
        check("truncated", code == 2 and error.count("\n") == 1, (code, error))
check("nothing half written", not os.path.exists(os.path.join(folder, "cut.html")))


def places(node, path=()):
    """Every place in a document."""
    yield path
    if isinstance(node, dict):
        for key in node:
            yield from places(node[key], path + (key,))
    elif isinstance(node, list):
        for i, item in enumerate(node):
            yield from places(item, path + (i,))


random.seed(7)
values = [None, True, -1, 1e308, 10**30, "", HOSTILE, "x" * 5000, [], {}, [[]], {"": {}}]
trials = [(d, p) for d in range(len(documents)) for p in places(documents[d]) if p]
for d, place in random.sample(trials, min(120, len(trials))):
    document = copy.deepcopy(documents[d])
    node = document
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = random.choice(values)
    path, out = write("odd.json", document), os.path.join(folder, "odd.html")
    code, _, error = run(validate, "report", "--html", out, path)
    check(
        "odd report", code in (0, 2) and (code == 0 or error.count("\n") == 1), (place, code, error)
    )
    if code == 0:
        try:
            xml.fromstring(open(out, encoding="utf-8").read())
        except xml.ParseError as e:
            check("odd page is well-formed", False, (place, e))
    code, _, error = run(validate, "diff", write("fine.json", documents[d]), path)
    check("odd diff", code in (0, 1, 2), (place, code, error))

print("%d checks, %d failed" % (checks, failures))
sys.exit(failures > 0)
