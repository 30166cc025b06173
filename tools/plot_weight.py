"""Plot the softmax weight from the table of `weight_search --table`.

    weight_search --table | python3 plot_weight.py OUT.png

Reads lines "n p W exact error" from stdin (or from a file given after OUT.png); '#' starts a
comment. Left: p against 255 * 2^((n-30720)/1024) over the top nine octaves.  Right: the error over
the top ones. """
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

TOP, STEPS = 30720, 1024
OCTAVES, ERROR_OCTAVES = 9, 4


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    n, p, _, exact, error = np.loadtxt(
        sys.argv[2] if len(sys.argv) == 3 else sys.stdin, unpack=True
    )
    x = (n - TOP) / STEPS
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")

    top = x >= -OCTAVES
    shown = top & (p > 0)
    left.plot(x[top], exact[top], color="0.6", lw=3, label="255 · 2$^x$")
    left.plot(x[shown], p[shown], color="C0", lw=1, label="p")
    left.set_yscale("log", base=2)
    left.set_yticks([2.0**k for k in range(-1, 9)])
    left.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    left.set_title("weight p (p = 0 further left)")
    left.set_ylabel("p")
    left.legend()

    top = x >= -ERROR_OCTAVES
    right.plot(x[top], error[top], ".", ms=2.2, mew=0, color="C0")
    for y in (-0.5, 0.5):
        right.axhline(y, color="0.5", lw=0.8, ls="--")
    last = x >= -1
    rms = np.sqrt(np.mean(error[last] ** 2))
    right.set_ylim(-0.8, 0.8)
    right.set_title(
        f"error p − 255 · 2$^x$ (top octave: rms {rms:.3f},"
        f" largest {np.abs(error[last]).max():.3f})",
        fontsize=11,
    )
    right.set_ylabel("error, dashed: ±½")
    for axes in (left, right):
        axes.set_xlabel("x = (n − 30720) / 1024")
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(sys.argv[1], dpi=110)


if __name__ == "__main__":
    main()
