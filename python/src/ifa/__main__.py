"""`python -m ifa ...` and the command `validate`: the program of this package
(docs/validate.md)."""

import os
import sys

from ._library import FOLDER


def validate() -> None:
    """Becomes the program: its exit codes and signals are those of `validate`."""
    program = FOLDER / "bin" / "validate"
    if not program.exists():
        print(
            "validate: not available: this package was built without it (it needs jansson and xxhash)",
            file=sys.stderr,
        )
        sys.exit(3)
    os.execv(program, ["validate", *sys.argv[1:]])


if __name__ == "__main__":
    validate()
