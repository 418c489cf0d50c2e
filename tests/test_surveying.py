"""Sparse least squares from surveying (Saunders, 1979): LSMR beside SciPy's."""

import functools as ft
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.sparse.linalg

import lsqflow as lf

from .helpers import relative_error

PACKAGE = "scikit-sparse==0.4.16"
ARCHIVE = "scikit_sparse-0.4.16.tar.gz"
SHA256 = "3baf49ac98ae8cc4357005af49a0df93a6a53f4e61708705da2942ea4fa61a56"


def _is_whole(path):
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256


@ft.cache
def archive():
    """The source distribution that has the data, from pip once a machine.

    Its licence says nothing of the data in it, hence no copy of them here.
    """
    path = Path(tempfile.gettempdir()) / f"lsqflow-{ARCHIVE}"
    if not _is_whole(path):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder]
            subprocess.run([*pip, "--no-binary", "scikit-sparse", PACKAGE], check=True)
            assert _is_whole(Path(folder) / ARCHIVE)
            os.replace(Path(folder) / ARCHIVE, path)  # noqa: PTH105  atomic
    return path


def read(name):
    with tarfile.open(archive()) as files:
        packed = files.extractfile(
            f"{ARCHIVE.removesuffix('.tar.gz')}/sksparse/test_data/{name}.mtx.gz"
        ).read()
    return scipy.io.mmread(io.BytesIO(gzip.decompress(packed)), spmatrix=False)


@ft.cache
def problem(name):
    return read(name).tocsr(), np.ravel(read(f"{name}_rhs1"))


def scipys(A, b, rtol, order):
    """SciPy's LSMR on the rows in another order: the same but for rounding."""
    p = np.random.default_rng(order).permutation(len(b))
    x, _, steps, *_ = scipy.sparse.linalg.lsmr(
        A[p], b[p], atol=rtol, btol=rtol, conlim=1e300, maxiter=10**5
    )
    return x, steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["well1033", "well1850", "illc1033"])
def test_as_scipys_lsmr(name):
    """Hundreds of steps: rounding decides when each stops, also between orders of rows.

    SciPy's own runs are the measure: ours stops among them, as near to the solution.
    """
    A, b = problem(name)
    operator, right = lf.SparseOperator(A), jnp.asarray(b)

    @eqx.filter_jit
    def solve(rtol, max_steps):
        solver = lf.LSMR(rtol=rtol, conlim=1e300, max_steps=max_steps)
        return lf.lstsq(operator, right, solver, throw=False)

    start, *_ = scipy.sparse.linalg.lsmr(A, b, atol=0, btol=0, conlim=0, maxiter=15)
    got = solve(jnp.asarray(0.0), jnp.asarray(15))
    assert relative_error(got.value, start) < 1e-8
    exact = np.linalg.lstsq(A.toarray(), b, rcond=None)[0]
    for rtol in (1e-6, 1e-8):
        got = solve(jnp.asarray(rtol), jnp.asarray(10**5))
        x, steps = zip(*(scipys(A, b, rtol, order) for order in range(4)), strict=True)
        assert 0.97 * min(steps) < int(got.stats["num_steps"]) < 1.03 * max(steps)
        worst = max(relative_error(z, exact) for z in x)
        assert relative_error(got.value, exact) < 2 * worst
        residuals = [np.linalg.norm(b - A @ z) for z in (got.value, *x)]
        np.testing.assert_allclose(residuals, residuals[0], rtol=2e-3)
