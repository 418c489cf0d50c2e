"""Pickle, deep copies and equinox's files hold solvers, adjoints, terms and solutions.

What comes back is equal, solves alike, and (being equal) compiles nothing again.
"""

import copy
import io
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from .helpers import matrix, rng
from .registry.compilations import compilations

A = jnp.asarray(matrix(rng(0), (8, 5)))
B = jnp.asarray(rng(1).standard_normal(8))


def _through_file(x):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, x)
    file.seek(0)
    blank = jax.tree.map(lambda y: jnp.zeros_like(y) if eqx.is_array(y) else y, x)
    return eqx.tree_deserialise_leaves(file, blank)


COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "file": _through_file,
}
each_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)

SOLVERS = {
    "AutoSolver": lf.AutoSolver(),
    "AutoSolver, LSQR": lf.AutoSolver(lf.LSQR(rtol=1e-9)),
    "LSMR": lf.LSMR(),
    "LSMR, all arguments": lf.LSMR(rtol=1e-9, atol=1e-12, max_steps=50, conlim=1e6),
    "LSMR, arrays": lf.LSMR(rtol=jnp.asarray(1e-9), max_steps=jnp.asarray(50)),
    "LSQR": lf.LSQR(rtol=1e-9),
    "QR": lf.QR(),
    "SVD": lf.SVD(),
    "Cholesky": lf.Cholesky(),
    "Normal(CG)": lx.Normal(lx.CG(1e-10, 1e-10)),
}
ADJOINTS = {
    "implicit": lf.ImplicitAdjoint(),
    "implicit, own solver": lf.ImplicitAdjoint(lf.LSMR(rtol=1e-10)),
    "unrolled": lf.UnrolledAdjoint(),
}


def _bounded():
    return lf.lstsq(A, B, lf.LSMR(), bounds=(0, None))


def _constrained():
    return lf.lstsq(A, B, subject_to=lf.Affine(A[:2], B[:2]))


def _regularized():
    terms = [lf.Tikhonov(lf.Difference(5, dtype=A.dtype), 0.3)]
    return lf.lstsq(A, B, weights=jnp.abs(B), regularizers=terms)


def _steps(limit=None, state=None):
    """Two steps at a time, up to a limit."""
    return lf.iterate(
        A,
        B,
        lf.LSMR(rtol=1e-12, max_steps=40),
        state=state,
        chunk=2,
        callback=lambda seen: limit is not None and seen.num_steps >= limit,
        progress=False,
    )


def _path():
    return lf.regularization_path(A, B, jnp.asarray([0.1, 1.0, 10.0]))


RESULTS = {
    "solution": lambda: lf.lstsq(A, B),
    "solution, iterative": lambda: lf.lstsq(A, B, lf.LSMR(), damp=0.1),
    "solution, failed": lambda: lf.lstsq(A, B, lf.LSMR(max_steps=1), throw=False),
    "solution, of pytrees": lambda: lf.lstsq(
        lf.VStack({"a": A, "b": A[:3]}), {"a": B, "b": B[:3]}
    ),
    "solution, in bounds": _bounded,
    "solution, under equations": _constrained,
    "solution, regularized": _regularized,
    "batch of solutions": lambda: jax.vmap(lambda b: lf.lstsq(A, b, lf.LSMR()))(
        jnp.stack([B, 2 * B])
    ),
    "primal and dual": lambda: lf.lstsq(A, B).state,
    "primal and dual, blank": lambda: lf.PrimalDual(B[:5], None, B),
    "path": _path,
    "tikhonov": lf.Tikhonov,
    "tikhonov, all arguments": lambda: lf.Tikhonov(lf.Gradient((3, 2)), 0.5, B[:6]),
    "affine": lambda: lf.Affine(A),
    "affine with a target": lambda: lf.Affine(A, B),
    "problem": lambda: lf.Problem(lf.as_operator(A), B, jnp.asarray(0.1)),
    "iteration, interrupted": lambda: _steps(limit=4),
    "stop reason": lambda: lf.lstsq(A, B).stats["stop_reason"],
    "result": lambda: lf.lstsq(A, B).result,
}


def assert_equal(got, want):
    """Leaf by leaf and bit by bit; what is static compares as equinox does."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if isinstance(y, jax.Array | np.ndarray):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
            np.testing.assert_array_equal(x, y)
        else:
            assert x == y


@each_copy
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_solvers(solver, copied):
    again = copied(solver)
    assert_equal(again, solver)
    want = lf.lstsq(A, B, solver)
    with compilations() as compiled:
        got = lf.lstsq(A, B, again)
    assert not compiled
    np.testing.assert_array_equal(got.value, want.value)
    np.testing.assert_allclose(got.value, np.linalg.lstsq(A, B)[0], rtol=1e-7)


def test_woodbury():
    operator = lf.DiagonalPlusLowRank(jnp.full(5, 3.0), A.T[:, :2])
    want = np.linalg.solve(operator.as_matrix(), B[:5])
    for copied in COPIES.values():
        solver = copied(lf.Woodbury())
        got = lf.lstsq(operator, B[:5], solver).value
        np.testing.assert_allclose(got, want, rtol=1e-10)


@each_copy
@pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)
def test_adjoints(adjoint, copied):
    again = copied(adjoint)
    assert_equal(again, adjoint)

    def gradient(adjoint):
        solver = lf.LSMR(max_steps=20)
        loss = lambda b: jnp.sum(lf.lstsq(A, b, solver, adjoint=adjoint).value)
        return jax.grad(loss)(B)

    np.testing.assert_array_equal(gradient(again), gradient(adjoint))
    want = np.sum(np.linalg.pinv(A), axis=0)
    np.testing.assert_allclose(gradient(again), want, rtol=1e-6)


@pytest.fixture(scope="module")
def results():
    return {name: make() for name, make in RESULTS.items()}


@each_copy
@pytest.mark.parametrize("name", RESULTS)
def test_results(results, name, copied):
    assert_equal(copied(results[name]), results[name])


@each_copy
def test_a_copied_solution_tells_what_the_first_told(results, copied):
    solution = copied(results["solution, failed"])
    assert bool(solution.result == lx.RESULTS.max_steps_reached)
    reason = solution.stats["stop_reason"]
    assert bool(reason == lf.StopReason.max_steps_reached)
    assert "max_steps" in lf.StopReason[reason]


@each_copy
def test_copied_terms_solve_alike(results, copied):
    shape = (3, 2)
    term = results["tikhonov, all arguments"]
    image = jnp.asarray(rng(2).standard_normal(shape))
    term = lf.Tikhonov(term.operator, term.strength, image)
    want, got = (
        lf.lstsq(lf.Identity(image), 2 * image, regularizers=[t]).value
        for t in (term, copied(term))
    )
    np.testing.assert_array_equal(got, want)
    constraint = lf.Affine(A[:2], B[:2])
    got = lf.lstsq(A, B, subject_to=copied(constraint)).value
    np.testing.assert_allclose(A[:2] @ got, B[:2], rtol=1e-8)


@each_copy
def test_a_copied_path_chooses_alike(results, copied):
    path = results["path"]
    np.testing.assert_array_equal(copied(path).gcv(), path.gcv())


@each_copy
def test_a_copied_state_goes_on_to_the_same_bits(results, copied):
    begun = results["iteration, interrupted"]
    ended = _steps(state=copied(begun.state))
    whole = _steps()
    assert int(begun.state.num_steps) < int(whole.state.num_steps)
    assert_equal(ended.state, whole.state)
    assert_equal(ended.solution, whole.solution)
