"""Implicit against unrolled (checkpointed) differentiation: time and memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import lsqflow as lf

from ._problems import matrix, vector
from ._report import at_least, table
from ._timing import interleave

SHAPE = (2000, 500)
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


def main(*, quick: bool) -> None:
    height, width = SHAPE
    print(
        f"\nDense float64 {height}×{width}, κ = {CONDITION:g}, LSMR with tolerances zero "
        "and a fixed number of steps;\ngradient of ‖x‖² with respect to A and b. Memory "
        "is XLA's temporary buffers of the compiled program.\n"
    )
    A, b = jnp.asarray(matrix(height, width, CONDITION)), jnp.asarray(vector(height))
    rows = []
    for steps in STEPS:
        programs = {
            name: value_and_grad(adjoint, steps).lower(A, b).compile()
            for name, adjoint in ADJOINTS.items()
        }
        memory = {
            name: program.memory_analysis().temp_size_in_bytes / 2**20
            for name, program in programs.items()
        }
        row: list[Any] = [steps, memory["implicit"], memory["unrolled"]]
        if steps in TIMED:
            taken = {name: int(f(A, b)[0][1]) for name, f in programs.items()}
            if set(taken.values()) != {steps}:
                msg = f"Expected {steps} steps; got {taken}."
                raise RuntimeError(msg)
            times = interleave(
                {name: lambda f=f: f(A, b) for name, f in programs.items()},
                2 if quick else 5,
            )
            ratio = times["unrolled"].over(times["implicit"])
            row += [1e3 * times[name].median for name in ADJOINTS]
            row += [ratio, at_least(ratio, TIMED[steps])]
        else:
            row += [""] * 4
        rows.append(row)
    columns = ["steps", "implicit MiB", "unrolled MiB", "implicit ms", "unrolled ms"]
    table([*columns, "unrolled / implicit", "bar"], rows)
    grows = rows[-1][1] > rows[0][1]
    print(f"Memory of implicit grows with steps: {'YES, NOT met' if grows else 'no, met'}.")
