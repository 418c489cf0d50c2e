"""What is called successful is; what is right is not refused; and words that help."""

import inspect
import traceback

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest

import lsqflow as lf
from lsqflow._lstsq import _lstsq
from lsqflow._outcome import result_of

from .helpers import X64, dtype_of, matrix, normal, relative_error, rng

REAL = dtype_of("real")
EPS = float(np.finfo(REAL).eps)
LAPACK = [lf.QR(), lf.SVD(), lf.Cholesky(), lx.LU()]


def definite(n=60, condition=1e2):
    Q, _ = np.linalg.qr(rng().standard_normal((n, n)))
    A = (Q * np.geomspace(1, 1 / condition, n)) @ Q.T
    tags = lx.positive_semidefinite_tag
    return lx.MatrixLinearOperator(jnp.asarray(A.astype(REAL)), tags)


@pytest.mark.float32
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-5])
def test_solvers_of_lineax_are_judged_by_their_tolerances(rtol):
    """A loose method of conjugate gradients has not failed; with few steps it has."""
    A, b = definite(), normal(rng(1), 60, REAL)
    for solver in (lx.CG(rtol, rtol), lx.Normal(lx.CG(rtol, rtol))):
        loose = lf.lstsq(A, b, solver, throw=False)
        assert loose.result == lx.RESULTS.successful
        r = np.linalg.norm(A.matrix @ loose.value - b)
        assert r < 10 * rtol * 60**0.5 * (1 + np.linalg.norm(b))
    cut = lf.lstsq(A, b, lx.CG(1e-5, 1e-5, max_steps=1), throw=False)
    assert cut.result == lx.RESULTS.max_steps_reached


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.Cholesky(), lf.QR(), lx.LU()])
def test_full_rank_methods_on_deficient_operators(solver):
    """The least-norm solution, or a failure that names solvers that find it."""
    A = np.array(matrix(rng(), (8, 8), rank=5, dtype=REAL))
    b = normal(rng(1), 8, REAL)
    want = np.linalg.pinv(A.astype(np.float64), rcond=1e-4) @ b
    got = lf.lstsq(A, b, solver, throw=False)
    right = relative_error(got.value, want) < 1e-3
    assert right or got.result != lx.RESULTS.successful
    L = lf.Gradient((3, 4), spacing=(0.5, 1.0), dtype=REAL)
    u = jax.tree.map(lambda s: normal(rng(2), s.shape, REAL), L.out_structure())
    got = lf.lstsq(L, u, lf.Cholesky(), throw=False)
    assert got.result != lx.RESULTS.successful
    assert "lsqflow.LSMR" in repr(got.result)


@pytest.mark.float32
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    """The default solver works; what LAPACK cannot do is said."""
    A, b = (jnp.asarray(z).astype(dtype) for z in (np.eye(4, 3), np.arange(4.0)))
    value = lf.lstsq(A, b).value
    assert value.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(value.astype(jnp.float32), [0, 1, 2], atol=0.02)
    for solver in LAPACK:
        with pytest.raises(TypeError, match=r"has half.*`lsqflow\.LSMR\(\)`"):
            lf.lstsq(A, b, solver)


def test_operators_without_a_matrix():
    structure = jax.ShapeDtypeStruct((4,), np.complex128)
    with pytest.raises(TypeError, match=r"real numbers only.*`lsqflow\.LSMR\(\)`"):
        lf.lstsq(lf.Real(structure), np.ones(4), lf.QR())
    value = lf.lstsq(lf.Real(structure), np.ones(4), lf.LSMR()).value
    np.testing.assert_allclose(value, np.ones(4))


@pytest.mark.float32
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
@pytest.mark.parametrize("damp", [None, 0.5])
def test_nothing_to_solve(shape, damp):
    for solver in (lf.AutoSolver(), lf.LSMR(), lf.LSQR()):
        b = jnp.ones(shape[0], REAL)
        got = lf.lstsq(jnp.zeros(shape, REAL), b, solver, damp=damp)
        assert got.value.shape == shape[1:]
        np.testing.assert_array_equal(got.value, 0)
        np.testing.assert_array_equal(got.residual, b)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.AutoSolver(), lf.LSMR(), lf.QR()])
def test_no_right_hand_sides(solver):
    """An empty batch, its values and its gradients."""
    A = jnp.asarray(matrix(rng(), (5, 3), dtype=REAL))
    solve = lambda A, b: jax.vmap(lambda b: lf.lstsq(A, b, solver).value)(b)
    none = jnp.zeros((0, 5), REAL)
    assert solve(A, none).shape == (0, 3)
    slope = jax.grad(lambda A: jnp.sum(solve(A, none)))(A)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.AutoSolver(), lf.LSMR(), *LAPACK])
def test_nan_in_the_operator_is_input(solver):
    A = np.array(matrix(rng(), (4, 4), dtype=REAL))
    A[1, 2] = np.nan
    got = lf.lstsq(A, np.ones(4, REAL), solver, throw=False)
    assert got.stats["stop_reason"] == lf.StopReason.nonfinite_input
    assert "input was finite" not in repr(got.result)


@pytest.mark.float32
def test_results_print_what_helps():
    """A `lineax.RESULTS` that says our reason, and no option of theirs."""
    A = matrix(rng(), (60, 12), dtype=REAL)
    b = normal(rng(1), 60, REAL)
    short = lf.lstsq(A, b, lf.LSMR(max_steps=1), throw=False)
    cases = [result_of(lf.StopReason.inaccurate), short.result]
    for result in cases:
        assert result != lx.RESULTS.successful
        assert lx.RESULTS.successful != result
        for text in (repr(result), lx.RESULTS[result]):
            assert "stagnation_iters" not in text
    assert "max_steps" in repr(cases[1])
    assert cases[1] == lx.RESULTS.max_steps_reached
    good = lf.lstsq(A[:, :3], b).result
    assert good == lx.RESULTS.successful
    assert repr(good).startswith("<successful")
    merged = lx.RESULTS.where(jnp.array(True), good, cases[1])
    assert merged == lx.RESULTS.successful


def test_an_error_outside_of_jit_is_a_sentence():
    A, b = matrix(rng(), (9, 5)), normal(rng(1), 9, np.float64)
    with pytest.raises(eqx.EquinoxRuntimeError) as info:
        lf.lstsq(A, b, lf.LSMR(max_steps=1))
    lines = "".join(traceback.format_exception(info.value)).splitlines()
    assert len(lines) < 40  # most of them are the type checker's, in tests
    assert lines[-1].startswith("equinox") or "took `max_steps`" in lines[-1]
    assert "took `max_steps` steps" in str(info.value)[:60]
    quiet = lf.lstsq(A, b, lf.LSMR(max_steps=1), throw=False)
    with pytest.raises(eqx.EquinoxRuntimeError, match="took `max_steps` steps"):
        quiet.raise_if_failed()
    assert lf.lstsq(A, b).raise_if_failed().value.shape == (5,)
    batch = jax.vmap(lambda b: lf.lstsq(A, b, lf.LSMR(), throw=False))
    bad = jnp.stack([b, b * jnp.nan])
    with pytest.raises(eqx.EquinoxRuntimeError, match="holds NaN"):
        batch(bad).raise_if_failed()


def test_eager_solves_call_nothing_on_the_host():
    """So that JAX can keep the program between runs; as with `throw=False` inside."""
    A, b = matrix(rng(), (9, 5)), normal(rng(1), 9, np.float64)
    solve = lambda b, throw: lf.lstsq(A, b, lf.LSMR(), throw=throw).value
    inside = {t: jax.jit(lambda b, t=t: solve(b, t)).lower(b).as_text() for t in _BOTH}
    assert "callback" in inside[True]
    assert "callback" not in inside[False]
    slope = jax.jit(jax.grad(lambda b: jnp.sum(solve(b, False)))).lower(b).as_text()
    assert "callback" not in slope


_BOTH = (True, False)


@pytest.mark.float32
def test_solutions_print_numbers():
    A, b = matrix(rng(), (9, 5), dtype=REAL), normal(rng(1), 9, REAL)
    norm = np.linalg.norm(b - A @ np.linalg.pinv(A) @ b)
    iterative, direct = lf.lstsq(A, b, lf.LSMR()), lf.lstsq(A, b)
    steps = int(iterative.stats["num_steps"])
    first = repr(iterative).splitlines()[0]
    assert f"solved in {steps} steps (least squares)" in first
    assert f"‖b − A x‖ = {norm:.3g}" in first
    assert "solved directly" in repr(direct)
    assert "FAILED after 1 steps (max steps reached)" in repr(
        lf.lstsq(A, b, lf.LSMR(max_steps=1), throw=False)
    )
    # While traced, in a batch, and with other leaves, there are shapes.
    shown = []
    solve = lambda b: lf.lstsq(A, b, lf.LSMR())
    jax.jit(lambda b: shown.append(repr(solve(b))))(b)
    shown.append(repr(jax.vmap(solve)(jnp.stack([b, b]))))
    assert all(text.startswith("Solution(") for text in shown)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.LSMR, lf.LSQR])
def test_every_argument_of_a_solver_is_documented(solver):
    text = inspect.getdoc(solver.__init__)
    for name in inspect.signature(solver).parameters:
        assert f"- `{name}`:" in text


@pytest.mark.skipif(not X64, reason="a tolerance of 1e-10")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "method", [optx.LevenbergMarquardt, optx.Dogleg, optx.GaussNewton]
)
def test_the_last_steps_of_gauss_newton_are_no_failure(method, seed):
    """Near the solution the step is tiny, and its own digits are not asked for."""
    times = np.linspace(0, 2, 20)
    data = 2.5 * np.exp(-1.3 * times) + 0.05 * rng(seed).standard_normal(20)
    residual = lambda p, _: p[0] * jnp.exp(-p[1] * times) - data
    for linear in (lf.LSMR(), lf.LSMR(rtol=1e-10), lf.LSQR(), lf.AutoSolver()):
        solver = method(rtol=1e-10, atol=1e-10, linear_solver=linear)
        fit = optx.least_squares(residual, solver, jnp.ones(2), throw=False)
        assert fit.result == optx.RESULTS.successful
        slope = jax.jacobian(residual)(fit.value, None).T @ residual(fit.value, None)
        assert np.linalg.norm(slope) < 1e-7


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.AutoSolver(), lf.LSMR(), *LAPACK])
def test_infinities_do_not_hang(solver):
    """LAPACK may not return from one; what comes back is no plausible number."""
    A = np.array(matrix(rng(), (4, 4), dtype=REAL))
    A[0, 0] = np.inf
    for operator, b in ((A, np.ones(4)), (np.eye(4), [1, np.inf, 1, 1])):
        got = lf.lstsq(operator.astype(REAL), np.array(b, REAL), solver, throw=False)
        assert got.stats["stop_reason"] == lf.StopReason.nonfinite_input
    assert not np.any(np.isfinite(got.value)) or isinstance(solver, lf.LSMR)


@pytest.mark.float32
def test_other_tolerances_compile_nothing():
    A, b = matrix(rng(), (9, 5), dtype=REAL), normal(rng(1), 9, REAL)
    solve = lambda s: lf.lstsq(A, b, s, adjoint=lf.ImplicitAdjoint(s), throw=False)
    solve(lf.LSMR(rtol=1e-3, atol=0.0, conlim=1e6, max_steps=40))
    before = _lstsq._cached._cache_size()
    solve(lf.LSMR(rtol=1e-4, atol=1e-6, conlim=1e5, max_steps=30))
    assert _lstsq._cached._cache_size() == before


@pytest.mark.float32
def test_a_batch_says_how_many_failed():
    A, b = matrix(rng(), (9, 5), dtype=REAL), normal(rng(1), 9, REAL)
    solve = jax.vmap(lambda b: lf.lstsq(A, b, lf.LSMR(), throw=False))
    text = repr(solve(jnp.stack([b, np.nan * b, b])).result)
    assert text.startswith("<2 of 3 successful; the first failure: The vector")
