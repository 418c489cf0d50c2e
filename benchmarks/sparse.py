"""Sparse products and a sparse solve, beside SciPy and `jax.experimental.sparse`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg
from jax.experimental import sparse as jsparse

import lsqflow as lf

from ._problems import error
from ._report import at_most, table
from ._timing import interleave

TOLERANCE = 1e-10
PRODUCTS = 10
BAR = 3.0
SETTINGS = f"""
Random pattern, 8 nonzeros a row, {PRODUCTS} products one after the other in one loop,
as in a solver, after `linearise()`; times are for one product. SciPy: `csr @ x` and
`csr.T @ u`. "Skewed" has its nonzeros in columns ⌊n U³⌋: the first column has a
fortieth of them. A product alone, outside of a solver, puts the data in order first."""


def pattern(m: int, n: int, *, skewed: bool, dtype: Any) -> Any:
    generator = np.random.default_rng(0)
    uniform = generator.random(8 * m)
    columns = np.floor(n * (uniform**3 if skewed else uniform)).astype(int)
    data = generator.standard_normal(8 * m).astype(dtype)
    return sp.coo_array((data, (np.repeat(np.arange(m), 8), columns)), (m, n)).tocsr()


def repeated(product: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The product again and again, each depending on the one before."""

    def run(matrix: Any, vector: Any) -> Any:
        if isinstance(matrix, lf.AbstractOperator):
            matrix = matrix.linearise()
        tiny = jnp.asarray(1e-9, vector.dtype)
        step = lambda _, x: x + tiny * product(matrix, x)[:1]
        return jax.lax.fori_loop(0, PRODUCTS, step, vector)

    return eqx.filter_jit(run)


def compare(shape: tuple[int, int], rounds: int, *, skewed: bool, dtype: Any) -> None:
    csr = pattern(*shape, skewed=skewed, dtype=dtype)
    ours, bcoo = lf.SparseOperator(csr), jsparse.BCOO.from_scipy_sparse(csr)
    generator = np.random.default_rng(1)
    x, u = (generator.standard_normal(n).astype(dtype) for n in csr.shape[::-1])
    kind = "skewed" if skewed else "uniform"
    print(f"\n### {shape[0]}×{shape[1]}, {csr.nnz} nonzeros, {kind}, {np.dtype(dtype)}")
    rows = []
    for name, vector, reference, products in (
        (
            "A x",
            x,
            lambda: [csr @ x for _ in range(PRODUCTS)],
            (lambda A, v: A.mv(v), lambda A, v: A @ v),
        ),
        (
            "Aᵀ u",
            u,
            lambda: [csr.T @ u for _ in range(PRODUCTS)],
            (lambda A, v: A.rmv(v), lambda A, v: v @ A),
        ),
    ):
        v = jnp.asarray(vector)
        runs = [repeated(product) for product in products]
        once = eqx.filter_jit(products[0])
        calls = {
            "SciPy": reference,
            "lsqflow": lambda f=runs[0], v=v: f(ours, v),
            "BCOO": lambda f=runs[1], v=v: f(bcoo, v),
            "once": lambda f=once, v=v: f(ours, v),
        }
        times = interleave(calls, rounds)
        ratio = times["lsqflow"].over(times["SciPy"])
        rows.append(
            [
                name,
                *(1e3 / PRODUCTS * times[k].median for k in ("lsqflow", "SciPy")),
                ratio,
                times["lsqflow"].best / times["SciPy"].best,
                at_most(ratio, BAR),
                times["BCOO"].over(times["SciPy"]),
                1e3 * times["once"].median,
            ]
        )
    columns = ["lsqflow ms", "SciPy ms", "ours / it", "of the least", "bar"]
    table(["", *columns, "BCOO / SciPy", "lsqflow, one product alone, ms"], rows)


def compare_solves(shape: tuple[int, int], rounds: int) -> None:
    csr = pattern(*shape, skewed=False, dtype=np.float64)
    b = np.random.default_rng(2).standard_normal(shape[0])
    operator, solver = lf.SparseOperator(csr), lf.LSMR(rtol=TOLERANCE)
    solve = eqx.filter_jit(lambda A, b: lf.lstsq(A, b, solver))
    reference = lambda: scipy.sparse.linalg.lsmr(
        csr, b, atol=TOLERANCE, btol=TOLERANCE, maxiter=10**5
    )
    right = jnp.asarray(b)
    ours, theirs = solve(operator, right), reference()
    times = interleave(
        {"lsqflow": lambda: solve(operator, right).value, "SciPy": reference}, rounds
    )
    print(f"\n### LSMR to {TOLERANCE:g}, {shape[0]}×{shape[1]}")
    table(
        ["", "median ms", "steps", "difference", "ours / it"],
        [
            [
                "lsqflow",
                1e3 * times["lsqflow"].median,
                int(ours.stats["num_steps"]),
                error(ours.value, theirs[0]),
                times["lsqflow"].over(times["SciPy"]),
            ],
            ["SciPy", 1e3 * times["SciPy"].median, int(theirs[2]), "", ""],
        ],
    )


def main(*, quick: bool) -> None:
    print(SETTINGS)
    shape, rounds = ((20000, 5000), 3) if quick else ((200000, 50000), 21)
    compare(shape, rounds, skewed=False, dtype=np.float64)
    compare(shape, rounds, skewed=False, dtype=np.float32)
    compare(shape, rounds, skewed=True, dtype=np.float64)
    compare_solves(shape, 2 if quick else 5)
