"""Forward solve, value and gradient, and compilation, beside lineax, matfree, SciPy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import matfree.lstsq
import scipy.sparse.linalg

import lsqflow as lf

from ._problems import error, matrix, solution_and_gradient, vector
from ._report import at_most, table
from ._timing import compile_times, interleave

TOLERANCE = 1e-10
CONDITION = 1e2

SETTINGS = f"""
Dense float64, κ = {CONDITION:g}, geometrically spaced singular values, normal random b.
Loss ‖x‖², gradient with respect to A and b. Errors are relative, against
closed forms.

- lsqflow: `lf.lstsq(A, b, lf.LSMR(rtol={TOLERANCE:g}))`
- lineax: `lx.linear_solve(A, b, lx.LSMR(rtol={TOLERANCE:g}, atol=0))`
- matfree: `lsmr(atol={TOLERANCE:g}, btol={TOLERANCE:g})`, on `lambda u, A: A.T @ u`
  and on `lambda u, A: u @ A`
- SciPy: `lsmr(A, b, atol={TOLERANCE:g}, btol={TOLERANCE:g})`, forward only

All stop at ‖r‖ ≤ tol (‖A‖ ‖x‖ + ‖b‖) or ‖Aᵀr‖ ≤ tol ‖A‖ ‖r‖, by the same estimates."""

Solve = Callable[[Any, Any], tuple[Any, Any]]  # matrix, vector → solution, steps


def lsqflow(A: Any, b: Any) -> tuple[Any, Any]:
    solution = lf.lstsq(lf.MatrixOperator(A), b, lf.LSMR(rtol=TOLERANCE))
    return solution.value, solution.stats["num_steps"]


def lineax(A: Any, b: Any) -> tuple[Any, Any]:
    solver = lx.LSMR(rtol=TOLERANCE, atol=0.0)
    solution = lx.linear_solve(lx.MatrixLinearOperator(A), b, solver)
    return solution.value, solution.stats["num_steps"]


def _matfree(vecmat: Callable[[Any, Any], Any]) -> Solve:
    def solve(A: Any, b: Any) -> tuple[Any, Any]:
        run = matfree.lstsq.lsmr(atol=TOLERANCE, btol=TOLERANCE)
        x, stats = run(vecmat, b, A)
        return x, stats["iteration_count"]

    return solve


def scipy_reference(A: Any, b: Any) -> tuple[Any, Any]:
    out = scipy.sparse.linalg.lsmr(A, b, atol=TOLERANCE, btol=TOLERANCE, maxiter=10**5)
    return out[0], out[2]


SOLVERS: dict[str, Solve] = {
    "lsqflow": lsqflow,
    "lineax": lineax,
    "matfree `u @ A`": _matfree(lambda u, A: u @ A),
    "matfree `A.T @ u`": _matfree(lambda u, A: A.T @ u),
}
FORWARD = {"lineax": 0.35, "matfree `u @ A`": 1.0}
GRADIENT = {"lineax": 0.33, "matfree `u @ A`": 0.72}
COMPILE = {"lineax": 0.7}


def value_and_grad(solve: Solve) -> Callable[[Any, Any], Any]:
    def loss(A: Any, b: Any) -> Any:
        return jnp.sum(solve(A, b)[0] ** 2)

    return jax.value_and_grad(loss, argnums=(0, 1))


def fresh(solve: Solve) -> Callable[[], Any]:
    """New function objects, so that no cache of JAX knows them."""
    return lambda: value_and_grad(lambda A, b: solve(A, b))  # noqa: PLW0108


def _compare(
    title: str, times: dict[str, Any], bars: dict[str, float], extra: Any
) -> None:
    print(f"\n#### {title}")
    names, columns = list(times), [k for k in extra if extra[k]]
    rows = []
    for name in names:
        ratio = times["lsqflow"].over(times[name])
        best = times["lsqflow"].best / times[name].best
        rows.append(
            [
                name,
                1e3 * times[name].median,
                1e3 * times[name].best,
                *(extra[c].get(name, "") for c in columns),
                ratio,
                best,
                at_most(ratio, bars[name]) if name in bars else "",
            ]
        )
    table(
        ["", "median ms", "least ms", *columns, "ours / it", "of the least", "bar"],
        rows,
    )


def compare(shape: tuple[int, int], rounds: int) -> None:
    """The three tables of one shape."""
    A, b = matrix(*shape, CONDITION), vector(shape[0])
    x, to_A, to_b = solution_and_gradient(A, b)
    arrays = jnp.asarray(A), jnp.asarray(b)
    print(f"\n### {shape[0]}×{shape[1]}")

    calls: dict[str, Any] = {
        name: lambda f=jax.jit(solve): f(*arrays) for name, solve in SOLVERS.items()
    }
    calls["SciPy"] = lambda: scipy_reference(A, b)
    outputs = {name: call() for name, call in calls.items()}
    extra = {
        "steps": {name: int(out[1]) for name, out in outputs.items()},
        "x error": {name: error(out[0], x) for name, out in outputs.items()},
    }
    times = interleave(calls, 3 * rounds)
    _compare("Forward solve", times, FORWARD, extra)

    calls = {
        name: lambda f=jax.jit(value_and_grad(solve)): f(*arrays)
        for name, solve in SOLVERS.items()
    }
    gradients = {name: call()[1] for name, call in calls.items()}
    extra = {
        "error of ∂A": {name: error(g[0], to_A) for name, g in gradients.items()},
        "error of ∂b": {name: error(g[1], to_b) for name, g in gradients.items()},
    }
    times = interleave(calls, 2 * rounds)
    _compare("Value and gradient", times, GRADIENT, extra)

    makers = {name: fresh(solve) for name, solve in SOLVERS.items()}
    times = compile_times(makers, arrays, rounds)
    _compare("Tracing and compiling value and gradient", times, COMPILE, {})


def main(*, quick: bool) -> None:
    print(SETTINGS)
    for shape in ((2000, 500), (500, 2000)):
        compare(shape, 2 if quick else 7)
