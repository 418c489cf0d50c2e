"""Solutions, duals and statuses, against NumPy and SciPy, and where peers go wrong."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg

import lsqflow as lf

from . import helpers

SOLVERS = {
    "lsmr": (lf.LSMR, scipy.sparse.linalg.lsmr),
    "lsqr": (lf.LSQR, scipy.sparse.linalg.lsqr),
}


def dense(A, b, damp=0.0, rcond=1e-10):
    """(x, y, r) from NumPy's singular value decomposition."""
    u, s, _ = np.linalg.svd(A, full_matrices=True)
    c = u.conj().T @ b
    s_full = np.zeros(len(b))
    s_full[: len(s)] = np.where(s > rcond * s[0], s, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        dual = np.where(s_full**2 + damp**2 > 0, c / (s_full**2 + damp**2), 0)
    y = u @ dual
    x = A.conj().T @ y
    return x, y, b - A @ x


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("damp", [0.0, 0.3])
@pytest.mark.parametrize("name", helpers.SHAPES)
def test_iterates_are_scipys(solver, damp, name):
    """Same iterate after each number of steps; same stop at the same tolerance."""
    ours, theirs = SOLVERS[solver]
    m, n = (20 * k for k in helpers.SHAPES[name])
    generator = helpers.rng(1)
    A = 10 * helpers.matrix(generator, (m, n), condition=5.0)
    b = generator.standard_normal(m)
    limit = {"lsmr": "maxiter", "lsqr": "iter_lim"}[solver]

    @jax.jit
    def after(steps):
        solution = lf.lstsq(
            A, b, ours(rtol=0.0, max_steps=steps), damp=damp, throw=False
        )
        return solution.value, solution.stats

    for steps in (1, 2, 5, 15):
        x, *_ = theirs(A, b, damp=damp, atol=0, btol=0, conlim=0, **{limit: steps})
        value, _ = after(steps)
        np.testing.assert_allclose(value, x, rtol=0, atol=1e-11 * np.linalg.norm(x))
    rtol = 1e-4
    got = lf.lstsq(A, b, ours(rtol=rtol, conlim=1e8), damp=damp)
    _, _, steps, *numbers = theirs(A, b, damp=damp, atol=rtol, btol=rtol, conlim=1e8)
    # SciPy's LSQR, unlike its LSMR, adds λ² to ‖A‖² at each step, and may stop earlier.
    assert steps - int(got.stats["num_steps"]) in ((-1, 0) if damp else (0,))
    if solver == "lsmr":
        _, _, norm, condition, _ = numbers
        np.testing.assert_allclose(got.stats["operator_norm"], norm, rtol=1e-8)
        np.testing.assert_allclose(got.stats["condition"], condition, rtol=1e-8)


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("damp", [None, 0.5])
@pytest.mark.parametrize("rank", ["full", "deficient"])
@pytest.mark.parametrize("name", helpers.SHAPES)
def test_primal_dual_residual(kind, damp, rank, name):
    shape = helpers.SHAPES[name]
    dtype = helpers.dtype_of(kind)
    generator = helpers.rng(2)
    A = helpers.matrix(
        generator, shape, rank=4 if rank == "deficient" else None, dtype=dtype
    )
    b = helpers.normal(generator, shape[:1], dtype)
    exact = (z.astype(np.complex128) for z in (A, b))
    want = dense(*exact, damp or 0.0, rcond=1e-5)
    rtol, bound = (1e-13, 1e-10) if helpers.X64 else (1e-6, 1e-4)
    for solver in (lf.LSMR(rtol=rtol), lf.LSQR(rtol=rtol), lf.SVD(), lf.AutoSolver()):
        got = lf.lstsq(A, b, solver, damp=damp)
        assert got.value.dtype == got.dual.dtype == got.residual.dtype == dtype
        for ours, theirs in zip((got.value, got.dual, got.residual), want, strict=True):
            scale = max(np.linalg.norm(theirs), 0.1 * np.linalg.norm(b))
            assert np.linalg.norm(np.asarray(ours) - theirs) < bound * scale
        assert lx.RESULTS[got.result] == ""


@pytest.mark.parametrize(
    "solver", [lf.QR(), lf.SVD(), lf.Cholesky(), lx.Normal(lx.CG(1e-12, 1e-12))]
)
@pytest.mark.parametrize("damp", [None, 0.5])
def test_lineax_solvers(solver, damp):
    """Solvers of lineax, with duals and gradients like our own."""
    generator = helpers.rng(3)
    A, b = helpers.matrix(generator, (12, 7)), generator.standard_normal(12)

    def loss(A, b, solver):
        return jnp.sum(lf.lstsq(A, b, solver, damp=damp).value ** 2)

    got = lf.lstsq(A, b, solver, damp=damp)
    want = dense(A, b, damp or 0.0)
    assert helpers.relative_error((got.value, got.dual, got.residual), want) < 1e-8
    grads = jax.grad(loss, (0, 1))(A, b, solver)
    ours = jax.grad(loss, (0, 1))(A, b, lf.LSMR(rtol=1e-13))
    assert helpers.relative_error(grads, ours) < 1e-8


TRIVIAL = {
    "b = 0": (np.eye(3, 2), np.zeros(3)),
    "A^H b = 0": (np.eye(3, 2), np.array([0.0, 0.0, 1.0])),
    "A = 0": (np.zeros((3, 2)), np.ones(3)),
    "one step": (np.eye(3, 2), np.array([1.0, 0.0, 0.0])),
    "breakdown": (np.diag([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])),
    "identity": (np.eye(4), np.arange(4.0)),
}


@pytest.mark.float32
@pytest.mark.parametrize("damp", [None, 0.0, 0.5])
@pytest.mark.parametrize("solver", [lf.LSMR(), lf.LSQR()])
@pytest.mark.parametrize("case", TRIVIAL)
def test_trivial_problems(case, solver, damp):
    """Each of these once returned NaN or raised somewhere; so did the gradient."""
    A, b = (jnp.asarray(z, helpers.dtype_of("real")) for z in TRIVIAL[case])
    got = lf.lstsq(A, b, solver, damp=damp)
    want = dense(np.asarray(A, float), np.asarray(b, float), damp or 0.0)
    for ours, theirs in zip((got.value, got.dual, got.residual), want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    grads = jax.grad(
        lambda A, b: jnp.sum(lf.lstsq(A, b, solver, damp=damp).value), (0, 1)
    )(A, b)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_narrow_dtypes_under_x64(dtype):
    """Dtype in is dtype out; half precision keeps its scalars in float32."""
    generator = helpers.rng(4)
    exact = helpers.matrix(generator, (12, 7))
    A = jnp.asarray(exact).astype(dtype)
    b = jnp.asarray(generator.standard_normal(12)).astype(dtype)
    want = dense(np.asarray(A.astype(complex)), np.asarray(b.astype(complex)))[0]
    got = lf.lstsq(A, b, lf.LSMR())
    eps = float(jnp.finfo(dtype).eps)
    assert got.value.dtype == got.dual.dtype == jnp.dtype(dtype)
    assert got.stats["residual_norm"].dtype == jnp.float32
    error = np.linalg.norm(np.asarray(got.value.astype(complex)) - want)
    assert error < 30 * eps**0.75 * np.linalg.norm(want)
    grad = jax.grad(lambda b: jnp.sum(jnp.abs(lf.lstsq(A, b, lf.LSMR()).value)))(b)
    assert grad.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("damp", [None, 0.0, 0.4])
def test_warm_start(damp):
    """Damped, a warm start is not a shift of b alone; and x0 gets no derivative."""
    generator = helpers.rng(5)
    A, b = (
        helpers.matrix(generator, (60, 35), condition=30.0),
        generator.standard_normal(60),
    )
    x, _, r = dense(A, b, damp or 0.0)
    x0 = x + 1e-4 * generator.standard_normal(35)
    solver = lf.LSMR(rtol=1e-10)
    cold, warm = (lf.lstsq(A, b, solver, damp=damp, x0=start) for start in (None, x0))
    assert helpers.relative_error((warm.value, warm.residual), (x, r)) < 1e-8
    np.testing.assert_allclose(warm.stats["residual_norm"], np.linalg.norm(r))
    assert warm.stats["num_steps"] < cold.stats["num_steps"]

    def loss(A, b, x0):
        return jnp.sum(lf.lstsq(A, b, lf.LSMR(rtol=1e-13), damp=damp, x0=x0).value ** 2)

    grads, wanted = (
        jax.grad(loss, (0, 1, 2))(A, b, x0),
        jax.grad(loss, (0, 1))(A, b, None),
    )
    assert helpers.relative_error(grads[:2], wanted) < 1e-7
    assert not np.any(grads[2])
    tangent = jax.jvp(lambda x0: loss(A, b, x0), (x0,), (x0,))[1]
    assert tangent == 0


def test_warm_start_wide():
    """Where solutions are many, the one nearest to x0: x0 + A⁺(b − A x0)."""
    generator = helpers.rng(6)
    A, b = helpers.matrix(generator, (7, 12)), generator.standard_normal(7)
    x0 = generator.standard_normal(12)
    want = x0 + np.linalg.pinv(A) @ (b - A @ x0)
    got = lf.lstsq(A, b, lf.LSMR(rtol=1e-12), x0=x0).value
    assert helpers.relative_error(got, want) < 1e-9


@pytest.mark.parametrize("consistent", [False, True])
@pytest.mark.parametrize("shape", [(200, 100), (100, 200)])
def test_hollow_convergence_is_reported(shape, consistent):
    """float32, κ = 1e5, tolerance 1e-6: small residuals, and no digit right."""
    generator = helpers.rng(0)
    A = helpers.matrix(generator, shape, rank=50, condition=1e5)
    b = A @ generator.standard_normal(shape[1])
    b = b if consistent else b + 0.1 * generator.standard_normal(shape[0])
    exact = dense(A, b)[0]
    A, b = A.astype(np.float32), b.astype(np.float32)
    got = lf.lstsq(A, b, lf.LSMR(rtol=1e-6), throw=False)
    assert helpers.relative_error(got.value, exact) > 0.2
    assert not bool(got.result == lx.RESULTS.successful)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scales_in_float32(scale):
    """No constant of the library is out of float32's reach."""
    generator = helpers.rng(8)
    A = helpers.matrix(generator, (12, 7))
    b = generator.standard_normal(12)
    want = dense(A, b)[0] / scale
    got = lf.lstsq((A * scale).astype(np.float32), b.astype(np.float32), lf.LSMR())
    assert helpers.relative_error(got.value, want) < 1e-4
    assert bool(got.result == lx.RESULTS.successful)
