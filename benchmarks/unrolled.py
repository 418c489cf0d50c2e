"""Implicit against unrolled (checkpointed) differentiation: time and memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lsqflow as lf

from ._problems import matrix, vector
from ._report import at_least, table
from ._timing import interleave

SHAPES = ((2000, 500), (600, 150), (100, 30))
# Bad enough that no run below converges: both ways take exactly as many steps.
CONDITION = 1e10
ADJOINTS = {"implicit": lf.ImplicitAdjoint(), "unrolled": lf.UnrolledAdjoint()}
STEPS = (50, 100, 200, 400)
TIMED = {200: 10.0, 400: 10.0}


def value_and_grad(adjoint: lf.AbstractAdjoint, steps: int) -> Callable[..., Any]:
    solver = lf.LSMR(rtol=0.0, conlim=jnp.inf, max_steps=steps)

    def loss(A: Any, b: Any) -> Any:
        solution = lf.lstsq(A, b, solver, adjoint=adjoint, throw=False)
        return jnp.sum(solution.value**2), solution.stats["num_steps"]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def compare(shape: tuple[int, int], steps: int, rounds: int) -> list[Any]:
    """A row: memory of both programs, and times where the steps are in `TIMED`."""
    A, b = jnp.asarray(matrix(*shape, CONDITION)), jnp.asarray(vector(shape[0]))
    programs = {
        name: value_and_grad(adjoint, steps).lower(A, b).compile()
        for name, adjoint in ADJOINTS.items()
    }
    row: list[Any] = [f"{shape[0]}×{shape[1]}", steps]
    row += [p.memory_analysis().temp_size_in_bytes / 2**20 for p in programs.values()]
    if steps not in TIMED:
        return [*row, "", "", "", ""]
    taken = {name: int(f(A, b)[0][1]) for name, f in programs.items()}
    if set(taken.values()) != {steps}:
        msg = f"Expected {steps} steps; got {taken}."
        raise RuntimeError(msg)
    calls = {name: lambda f=f: f(A, b) for name, f in programs.items()}
    times = interleave(calls, rounds)
    ratio = times["unrolled"].over(times["implicit"])
    row += [1e3 * times[name].median for name in ADJOINTS]
    return [*row, ratio, at_least(ratio, TIMED[steps])]


def main(*, quick: bool) -> None:
    print(
        f"\nDense float64, κ = {CONDITION:g}, LSMR with tolerances zero and a fixed "
        "number of steps; gradient of\n‖x‖² with respect to A and b. Memory is XLA's "
        "temporary buffers of the compiled program.\n"
    )
    shapes = SHAPES[:1] if quick else SHAPES
    rows = [compare(shape, n, 2 if quick else 7) for shape in shapes for n in STEPS]
    columns = [
        "",
        "steps",
        "implicit MiB",
        "unrolled MiB",
        "implicit ms",
        "unrolled ms",
    ]
    table([*columns, "unrolled / implicit", "bar"], rows)
    grows = any(len({row[2] for row in rows if row[0] == r[0]}) > 1 for r in rows)
    print(f"Memory of implicit grows with steps: {'YES, NOT met' if grows else 'no'}.")
