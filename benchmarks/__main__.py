"""`python -m benchmarks [name ...] [--quick]`: markdown on standard output."""

import importlib
import sys
import time

import jax

from ._report import header

NAMES = (
    "solve",
    "step",
    "products",
    "applications",
    "unrolled",
    "sparse",
    "tomography",
    "bounds",
    "kkt",
    "periodic",
    "scores",
    "pruning",
    "equivariance",
    "large",
    "scale",
    "reference",
)


def main() -> None:
    names = [x for x in sys.argv[1:] if x != "--quick"] or list(NAMES)
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.exit(
            f"No benchmark called {', '.join(unknown)}; there are {', '.join(NAMES)}."
        )
    jax.config.update("jax_enable_x64", True)
    print("# lsqflow benchmarks\n")
    header()
    for name in names:
        module = importlib.import_module(f"{__package__}.{name}")
        print(f"\n## {name}\n\n{module.__doc__}", flush=True)
        start = time.perf_counter()
        module.main(quick="--quick" in sys.argv)
        print(f"Took {time.perf_counter() - start:.0f} s.", flush=True)


main()
