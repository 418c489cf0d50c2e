"""Fifty million float32 unknowns: value and gradient, peak memory of the process."""

import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

import lsqflow as lf

from ._report import at_most, table

SIZE = 50_000_000
STEPS = 20
BAR = 12.0


class ScaledShift(lf.AbstractOperator):
    """`v ↦ d ∘ v + s (v shifted by one)`: products that cost next to nothing."""

    diagonal: Any
    shift: Any

    def mv(self, vector: Any) -> Any:
        return self.diagonal * vector + self.shift * jnp.roll(vector, 1)

    def in_structure(self) -> Any:
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)


def loss(operator: ScaledShift, vector: Any) -> Any:
    solver = lf.LSMR(rtol=0.0, conlim=jnp.inf, max_steps=STEPS)
    return jnp.sum(lf.lstsq(operator, vector, solver, throw=False).value ** 2)


def child(size: int, kind: str) -> None:
    """Solve, differentiate; print seconds, XLA's temporaries and the peak, in GiB."""
    diagonal = jnp.linspace(1, 2, size, dtype=jnp.float32)
    operator = ScaledShift(diagonal, jnp.float32(0.5))
    vector = jax.random.normal(jax.random.key(0), (size,), jnp.float32)
    f = loss if kind == "value" else jax.value_and_grad(loss, argnums=(0, 1))
    compiled = jax.jit(f).lower(operator, vector).compile()
    start = time.perf_counter()
    jax.block_until_ready(compiled(operator, vector))
    seconds = time.perf_counter() - start
    temporaries = compiled.memory_analysis().temp_size_in_bytes / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(seconds, temporaries, peak)


def main(*, quick: bool) -> None:
    size = SIZE // 10 if quick else SIZE
    print(
        f"\n{size / 1e6:g} million entries (a vector is {size * 4 / 2**30:.2f} GiB), "
        f"{STEPS} steps, gradient with respect to the diagonal, the\nscalar shift and "
        "the vector. Each in a process of its own; the peak is of resident memory.\n"
    )
    rows = []
    for kind in ("value", "value and gradient"):
        out = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(size), kind],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds, temporaries, peak = map(float, out.stdout.split())
        bar = at_most(peak, BAR) if kind != "value" else ""
        rows.append([kind, seconds, temporaries, peak, bar])
    table(["", "seconds", "temporaries GiB", "peak GiB", "bar"], rows)


if __name__ == "__main__":
    child(int(sys.argv[1]), sys.argv[2])
