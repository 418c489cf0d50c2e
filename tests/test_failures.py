"""A failing solve raises or reports, as `throw` says, in derivatives as well."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, Diagonal, dtype_of, matrix, normal, relative_error, rng

REAL = dtype_of("real")
D = jnp.arange(1.0, 9.0, dtype=REAL)
ONES = jnp.ones(8, REAL)
NAN, INF = (ONES.at[3].set(x) for x in (jnp.nan, jnp.inf))
ZERO = jnp.zeros((), REAL)

# entries of the operator, vector, damp, options of the solver; reason, its key words
CASES = {
    "max_steps": (
        D,
        ONES,
        ZERO,
        {"max_steps": 2},
        "max_steps_reached",
        "took `max_ste",
    ),
    "condition": (
        D,
        ONES,
        ZERO,
        {"conlim": 2.0},
        "condition_limit",
        "exceeds `conlim`",
    ),
    "nan_vector": (D, NAN, ZERO, {}, "nonfinite_input", "holds NaN or infinity"),
    "inf_vector": (D, INF, ZERO, {}, "nonfinite_input", "holds NaN or infinity"),
    "nan_operator": (NAN, ONES, ZERO, {}, "nonfinite_input", "holds NaN or infinity"),
    "inf_operator": (INF, ONES, ZERO, {}, "nonfinite_input", "holds NaN or infinity"),
    "inf_damp": (D, ONES, ZERO + jnp.inf, {}, "nonfinite_input", "holds NaN or infin"),
    "nan_damp": (D, ONES, ZERO + jnp.nan, {}, "nonfinite_input", "holds NaN or infin"),
}
RESULTS = {
    "max_steps_reached": lx.RESULTS.max_steps_reached,
    "condition_limit": lx.RESULTS.conlim,
    "nonfinite_input": lx.RESULTS.nonfinite_input,
}
METHODS = [(name, lf.LSMR) for name in CASES]
METHODS += [("max_steps", lf.LSQR), ("condition", lf.LSQR)]


@pytest.mark.float32
@pytest.mark.parametrize(("name", "method"), METHODS)
def test_run_time_failures(name, method):
    entries, vector, damp, options, reason, words = CASES[name]
    problem = Diagonal(entries), vector, method(**options)
    solution = lf.lstsq(*problem, damp=damp, throw=False)
    assert bool(solution.stats["stop_reason"] == getattr(lf.StopReason, reason))
    assert bool(solution.result == RESULTS[reason])
    assert words in lf.StopReason[solution.stats["stop_reason"]]
    with pytest.raises(eqx.EquinoxRuntimeError, match=words):
        lf.lstsq(*problem, damp=damp)


DIRECT = {"auto": lf.AutoSolver(), "SVD": lf.SVD(), "QR": lf.QR(), "LU": lx.LU()}


@pytest.mark.float32
@pytest.mark.parametrize("name", DIRECT)
def test_no_silent_nan_from_direct_solvers(name):
    good = jnp.diag(D)
    for entries, vector in ((good, NAN), (good, INF), (jnp.diag(NAN), ONES)):
        solution = lf.lstsq(entries, vector, DIRECT[name], throw=False)
        assert bool(solution.result != lx.RESULTS.successful)
    with pytest.raises(eqx.EquinoxRuntimeError, match="NaN or infinity"):
        lf.lstsq(good, NAN, DIRECT[name])
    solution = lf.lstsq(good, ONES, DIRECT[name])
    assert (
        relative_error(solution.value, 1 / np.arange(1, 9)) < 1e3 * jnp.finfo(REAL).eps
    )


SHORT = lf.ImplicitAdjoint(lf.LSMR(max_steps=1))


def _loss(throw, adjoint, solver=lf.LSMR(rtol=1e-12 if X64 else 1e-6)):
    def loss(entries, b):
        options = {"adjoint": adjoint, "throw": throw}
        return jnp.sum(D * lf.lstsq(Diagonal(entries), b, solver, **options).value)

    return loss


def _push(loss):
    return lambda entries, b: jax.jvp(loss, (entries, b), (ONES, D))[1]


def _vmap_grad(loss):
    many = jax.vmap(jax.grad(loss), in_axes=(None, 0))
    return lambda entries, b: many(entries, jnp.stack([b, 2 * b]))


MODES = {"grad": jax.grad, "jvp": _push, "vmap_of_grad": _vmap_grad}


@pytest.mark.float32
@pytest.mark.parametrize("mode", MODES)
def test_derivative_solves_obey_throw(mode):
    b = D + 1
    derivative = MODES[mode]
    quiet = eqx.filter_jit(derivative(_loss(throw=False, adjoint=SHORT)))(D, b)
    assert np.all(np.isfinite(quiet))
    with pytest.raises(eqx.EquinoxRuntimeError, match="took `max_steps` steps"):
        jax.block_until_ready(
            eqx.filter_jit(derivative(_loss(throw=True, adjoint=SHORT)))(D, b)
        )


@pytest.mark.float32
def test_forward_value_is_untouched_by_a_failing_derivative_solver():
    b = D + 1
    value = _loss(throw=True, adjoint=SHORT)(D, b)
    np.testing.assert_allclose(value, np.sum(b), rtol=1e-5)


@pytest.mark.float32
def test_failing_forward_solve_is_quiet_under_grad():
    solver = lf.LSMR(max_steps=2)
    loss = _loss(throw=False, adjoint=lf.ImplicitAdjoint(), solver=solver)
    assert np.all(np.isfinite(eqx.filter_jit(jax.grad(loss))(D, D + 1)))
    loss = _loss(throw=True, adjoint=lf.ImplicitAdjoint(), solver=solver)
    with pytest.raises(eqx.EquinoxRuntimeError, match="took `max_steps` steps"):
        jax.block_until_ready(eqx.filter_jit(jax.grad(loss))(D, D + 1))


@pytest.mark.float32
@pytest.mark.parametrize("where", ["vector", "operator"])
def test_one_bad_element_of_a_batch(where):
    g = rng(2)
    A = np.stack([matrix(g, (7, 4), dtype=REAL) for _ in range(3)])
    b = normal(g, (3, 7), REAL)
    want = np.stack([np.linalg.pinv(A[i]) @ b[i] for i in range(3)])
    slopes = np.stack([np.linalg.pinv(A[i]).T @ np.ones(4) for i in range(3)])
    (b if where == "vector" else A)[1, 2] = np.nan
    solver = lf.LSMR(rtol=1e-12 if X64 else 1e-6)

    @jax.jit
    @jax.vmap
    def solve(A, b):
        def value(b):
            solution = lf.lstsq(A, b, solver, throw=False)
            return jnp.sum(solution.value), solution

        slope, solution = jax.grad(value, has_aux=True)(b)
        return solution.value, solution.result, slope

    values, results, gradients = solve(A, b)
    good = np.array([True, False, True])
    np.testing.assert_array_equal(results == lx.RESULTS.successful, good)
    tol = 1e-9 if X64 else 1e-4
    assert relative_error(values[good], want[good]) < tol
    assert relative_error(gradients[good], slopes[good]) < tol


def test_one_bad_element_raises_for_the_batch_if_asked():
    b = jnp.stack([ONES, NAN, ONES])
    solve = eqx.filter_jit(
        jax.vmap(lambda b: lf.lstsq(Diagonal(D), b, lf.LSMR()).value)
    )
    with pytest.raises(eqx.EquinoxRuntimeError, match="holds NaN or infinity"):
        jax.block_until_ready(solve(b))
