"""One LSMR step over a bare loop that does the same two products and norms."""

from typing import Any

import jax
import jax.numpy as jnp

import lsqflow as lf

from ._problems import matrix, vector
from ._report import at_most, table
from ._timing import interleave

# A condition so bad that LSMR is still at work after the last step that is timed.
CONDITION = 1e14
FIRST = 100
# Rows, columns, steps between the two runs, rounds, bar.
CASES = (
    (2000, 500, 200, 30, 1.15),
    (600, 150, 400, 100, 1.35),
    (100, 30, 400, 1000, 2.5),
)


def bare(A: Any, b: Any, steps: int) -> Any:
    """Golub–Kahan, and nothing else: two products, two norms, two normalisations."""

    def body(carry: Any) -> Any:
        u, v, alpha, k = carry
        u = A @ v - alpha * u
        beta = jnp.sqrt(jnp.sum(u**2))
        u = u / beta
        v = u @ A - beta * v
        alpha = jnp.sqrt(jnp.sum(v**2))
        return u, v / alpha, alpha, k + 1

    u = b / jnp.sqrt(jnp.sum(b**2))
    v = u @ A
    alpha = jnp.sqrt(jnp.sum(v**2))
    carry = (u, v / alpha, alpha, 0)
    return jax.lax.while_loop(lambda c: c[-1] < steps, body, carry)


def lsmr(A: Any, b: Any, steps: int, *, dual: bool) -> Any:
    solver = lf.LSMR(rtol=0.0, atol=0.0, conlim=jnp.inf, max_steps=steps)
    solution = lf.lstsq(lf.MatrixOperator(A), b, solver, throw=False)
    read = (solution.value, solution.dual) if dual else solution.value
    return read, solution.stats["num_steps"]


def compare(height: int, width: int, steps: int, rounds: int, bar: float) -> list[Any]:
    """Rows for one shape: the solution alone, and with the dual."""
    A, b = jnp.asarray(matrix(height, width, CONDITION)), jnp.asarray(vector(height))
    kinds = {
        "bare": bare,
        "value": lambda A, b, n: lsmr(A, b, n, dual=False),
        "value and dual": lambda A, b, n: lsmr(A, b, n, dual=True),
    }
    calls: dict[str, Any] = {}
    for name, f in kinds.items():
        for n in (FIRST, FIRST + steps):
            run = jax.jit(f, static_argnums=2)
            calls[f"{name} {n}"] = lambda run=run, n=n: run(A, b, n)
            taken = n if name == "bare" else int(run(A, b, n)[1])
            if taken != n:
                msg = f"{height}×{width} stopped after {taken} of {n} steps."
                raise RuntimeError(msg)
    times = interleave(calls, rounds)
    median, best = {}, {}
    for name in kinds:
        short, long = times[f"{name} {FIRST}"], times[f"{name} {FIRST + steps}"]
        median[name] = 1e6 * (long.median - short.median) / steps
        best[name] = 1e6 * (long.best - short.best) / steps
    rows: list[Any] = []
    for name in ("value", "value and dual"):
        ratio = median[name] / median["bare"]
        row = [f"{height}×{width}", name, median["bare"], median[name], ratio]
        row += [
            best[name] / best["bare"],
            at_most(ratio, bar) if name == "value" else "",
        ]
        rows.append(row)
    return rows


def main(*, quick: bool) -> None:
    print(
        f"\nDense float64, κ = {CONDITION:g}, tolerances zero, `throw=False`. Time of "
        f"a step: a run of {FIRST} + N\nsteps less one of {FIRST}, over N. Bars are on "
        "the solution alone; where `dual` is read too, XLA keeps\nthe recurrence of "
        "the dual, four more vectors of the output space.\n"
    )
    rows: list[Any] = []
    for height, width, steps, rounds, bar in CASES:
        rows += compare(height, width, steps, rounds // 5 if quick else rounds, bar)
    columns = ["", "read", "bare µs", "LSMR µs", "ratio of medians", "of the least"]
    table([*columns, "bar"], rows)
