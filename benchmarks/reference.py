"""Steps and solutions beside SciPy's, at the same tolerances, on sparse problems."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

import lsqflow as lf

from ._problems import error
from ._report import table

TOLERANCES = (1e-4, 1e-8, 1e-12)
SHAPES = ((300, 100), (100, 300), (200, 200))


def main(*, quick: bool) -> None:
    del quick
    print("\nDensity 5 %, `atol = btol = rtol`, `conlim` off, λ = 0 and 0.1.\n")
    rows: list[list[Any]] = []
    for shape in SHAPES:
        rng = np.random.default_rng(0)
        sparse = scipy.sparse.random_array(shape, density=0.05, rng=rng)
        sparse += scipy.sparse.eye_array(*shape)
        A, b = jnp.asarray(sparse.toarray()), rng.standard_normal(shape[0])
        for damp in (0.0, 0.1):
            for tol in TOLERANCES:
                tols = {"atol": tol, "btol": tol, "conlim": 0.0}
                theirs = {
                    "LSMR": scipy.sparse.linalg.lsmr(
                        sparse, b, damp, maxiter=10**5, **tols
                    ),
                    "LSQR": scipy.sparse.linalg.lsqr(
                        sparse, b, damp, iter_lim=10**5, **tols
                    ),
                }
                for name, out in theirs.items():
                    solver = getattr(lf, name)(rtol=tol, conlim=jnp.inf)
                    ours = lf.lstsq(
                        lf.MatrixOperator(A), jnp.asarray(b), solver, damp=damp or None
                    )
                    steps = int(ours.stats["num_steps"])
                    difference = error(ours.value, out[0])
                    size = f"{shape[0]}×{shape[1]}"
                    rows.append([name, size, damp, tol, steps, out[2], difference])
    columns = ["", "shape", "λ", "tolerance", "steps", "SciPy's", "relative difference"]
    table(columns, rows)
