"""Operator applications of value_and_grad, over those of the forward solve."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

import lsqflow as lf

from ._problems import matrix, vector
from ._report import at_most, table

TOLERANCE = 1e-12
CONDITION = 1e3
SHAPES = {"tall": (120, 80), "wide": (80, 120), "square": (100, 100)}
# A backward pass may spend this much more than a solve of the transposed problem.
EXTRA = 6
BAR = 2.15


class Counter:
    """Counts what runs on the device, also inside loops."""

    def __init__(self) -> None:
        self.count = 0

    def up(self) -> None:
        self.count += 1


class Counted(lf.AbstractOperator):
    """A matrix whose every product, in either direction, is counted as it runs.

    Debug callbacks are effects, so that XLA removes no product that the program holds;
    the counts are upper bounds of what a program without them runs.
    """

    matrix: Any
    counter: Counter = eqx.field(static=True)

    def mv(self, vector: Any) -> Any:
        jax.debug.callback(self.counter.up)
        return self.matrix @ vector

    def rmv(self, vector: Any) -> Any:
        jax.debug.callback(self.counter.up)
        return vector @ self.matrix

    def in_structure(self) -> Any:
        return jax.ShapeDtypeStruct((self.matrix.shape[1],), self.matrix.dtype)

    def out_structure(self) -> Any:
        return jax.ShapeDtypeStruct((self.matrix.shape[0],), self.matrix.dtype)

    def linearise(self) -> "Counted":
        return self


def solve(A: Any, b: Any, damp: Any, counter: Counter) -> Any:
    solver = lf.LSMR(rtol=TOLERANCE)
    return lf.lstsq(Counted(A, counter), b, solver, damp=damp).value


def solve_transposed(A: Any, b: Any, damp: Any, counter: Counter) -> Any:
    """The same products in the other order, so that rounding is the same, too."""
    solver = lf.LSMR(rtol=TOLERANCE)
    return lf.lstsq(Counted(A, counter).transpose(), b, solver, damp=damp).value


def applications(f: Any, *args: Any) -> tuple[int, Any]:
    """How many products `f(*args, counter)` runs, and what it returns."""
    counter = Counter()
    out = jax.block_until_ready(jax.jit(lambda *a: f(*a, counter))(*args))
    jax.effects_barrier()
    return counter.count, out


def loss(A: Any, b: Any, damp: Any, weights: Any, counter: Counter) -> Any:
    return jnp.vdot(weights, solve(A, b, damp, counter))


def main(*, quick: bool) -> None:
    del quick
    print(
        f"\nLSMR, rtol = {TOLERANCE:g}, κ = {CONDITION:g} of what is not zero, normal "
        "random b and cotangent; gradient with respect\nto A, b and λ. `transposed` is "
        "a standalone solve with Aᵀ for the cotangent.\n"
    )
    rows = []
    for shape_name, (height, width) in SHAPES.items():
        for rank in (None, min(height, width) // 2):
            for damp in (None, 1e-2):
                A = jnp.asarray(matrix(height, width, CONDITION, rank))
                b, weights = (
                    jnp.asarray(vector(height)),
                    jnp.asarray(vector(width + 1)[1:]),
                )
                forward, _ = applications(solve, A, b, damp)
                transposed, _ = applications(solve_transposed, A, weights, damp)
                argnums = (0, 1) if damp is None else (0, 1, 2)
                both, _ = applications(
                    jax.value_and_grad(loss, argnums), A, b, damp, weights
                )
                backward = both - forward
                rows.append(
                    [
                        shape_name,
                        "full" if rank is None else f"rank {rank}",
                        "0" if damp is None else damp,
                        forward,
                        transposed,
                        backward,
                        at_most(backward - transposed, EXTRA),
                        both / forward,
                        at_most(both / forward, BAR),
                    ]
                )
    columns = ["", "rank", "λ", "forward", "transposed", "backward", "extra"]
    table([*columns, "value_and_grad / forward", "bar"], rows)
