"""Least squares with bounds, against SciPy's active-set solvers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import lsqflow as lf
from lsqflow._constrained.bounds import solve_bounded
from lsqflow._constrained.box import Box, as_box

from . import helpers

TIGHT = lf.LSMR(rtol=1e-14)
INF = np.inf


@eqx.filter_jit
def solve(operator, vector, damp, box, solver, x0=None, *, throw=True):
    problem = lf.Problem(operator, vector, damp)
    return solve_bounded(problem, box, solver, lf.ImplicitAdjoint(), x0=x0, throw=throw)


def bounded(operator, vector, lower, upper, damp=None, solver=TIGHT, **options):
    operator = lf.as_operator(operator)
    box = as_box(lower, upper, operator.in_structure())
    return solve(operator, vector, damp, box, solver, **options)


def scipy_solution(A, b, lower, upper, damp=None):
    n = A.shape[1]
    if damp is not None:
        A, b = np.vstack([A, damp * np.eye(n)]), np.concatenate([b, np.zeros(n)])
    return scipy.optimize.lsq_linear(
        A, b, (lower, upper), method="bvls", tol=1e-15, max_iter=10000
    )


def problem(shape, condition, seed, scale=0.3):
    """Random bounds around zero, one in five of them infinite."""
    rng = helpers.rng(seed)
    m, n = shape
    A, b = helpers.matrix(rng, shape, condition=condition), rng.standard_normal(m)
    lower = np.where(rng.random(n) < 0.8, -scale * rng.random(n), -INF)
    upper = np.where(rng.random(n) < 0.8, scale * rng.random(n), INF)
    return A, b, lower, upper


def objective(A, b, x, damp=None):
    damp = 0.0 if damp is None else damp
    return 0.5 * np.sum((A @ x - b) ** 2) + 0.5 * damp**2 * np.sum(x**2)


def assert_optimal(A, b, lower, upper, x, multipliers, tol, damp=None):
    """Feasible, stationary, and multipliers of the right sign and support."""
    damp = 0.0 if damp is None else damp
    gradient = A.T @ (A @ x - b) + damp**2 * x
    assert np.all((lower <= x) & (x <= upper))
    at_lower, at_upper = x == lower, x == upper
    np.testing.assert_allclose(np.where(at_lower | at_upper, 0, gradient), 0, atol=tol)
    assert np.all(gradient[at_lower & ~at_upper] >= -tol)
    assert np.all(gradient[at_upper & ~at_lower] <= tol)
    expected = np.where(at_lower | at_upper, gradient, 0)
    np.testing.assert_allclose(multipliers, expected, atol=tol)


@pytest.mark.parametrize(
    ("damp", "solver"),
    [(None, TIGHT), (0.01, TIGHT), (0.01, lf.SVD())],
    ids=["LSMR", "LSMR damped", "SVD damped"],
)
@pytest.mark.parametrize("shape", helpers.SHAPES.values(), ids=helpers.SHAPES)
def test_scipy_finds_the_same(shape, damp, solver):
    for condition in (10.0, 1e4):
        for seed in range(5):
            A, b, lower, upper = problem(shape, condition, seed)
            expected = scipy_solution(A, b, lower, upper, damp)
            lam = None if damp is None else jnp.asarray(damp)
            got, _ = bounded(A, jnp.asarray(b), lower, upper, lam, solver)
            x = np.asarray(got.primal)
            want = objective(A, b, expected.x, damp)
            assert objective(A, b, x, damp) <= want * (1 + 1e-8) + 1e-14
            assert_optimal(A, b, lower, upper, x, got.dual, 1e-10, damp)
            np.testing.assert_allclose(got.residual, b - A @ x, atol=1e-12)
            if damp is not None or shape[0] >= shape[1]:  # unique
                assert helpers.relative_error(x, expected.x) < 1e-8


def test_nonnegative_least_squares():
    rng = helpers.rng(1)
    A, b = rng.standard_normal((12, 7)), rng.standard_normal(12)
    got = lf.lstsq(A, jnp.asarray(b), TIGHT, bounds=(0, None))
    x, norm = scipy.optimize.nnls(A, b)
    np.testing.assert_allclose(got.value, x, atol=1e-12)
    np.testing.assert_allclose(got.stats["residual_norm"], norm, rtol=1e-12)
    assert np.all(got.multipliers[x == 0] > 0)
    assert 0 < np.sum(x == 0) < len(x)


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(None, None), (-100.0, 100.0), (0.5, 0.6), (0.25, 0.25), (None, -1.0)],
    ids=["free", "none active", "infeasible zero", "fixed", "one side"],
)
def test_corner_cases(lower, upper):
    A, b, _, _ = problem((12, 7), 5.0, 2)
    low, high = (x if x is not None else s for x, s in ((lower, -INF), (upper, INF)))
    got, _ = bounded(A, jnp.asarray(b), lower, upper)
    if low == high:
        want = np.full(7, low)
    elif (low, high) in ((-INF, INF), (-100, 100)):
        want = np.linalg.lstsq(A, b)[0]
    else:
        want = scipy_solution(A, b, low, high).x
    np.testing.assert_allclose(got.primal, want, atol=1e-10)


def test_all_active_and_some_fixed():
    A, b, _, _ = problem((12, 7), 3.0, 3)
    outward = np.sign(np.linalg.solve(A.T @ A, A.T @ b))
    diagonal = np.eye(12, 7) * np.arange(1.0, 8.0)
    vector = jnp.asarray(np.pad(outward, (0, 5)))
    got, _ = bounded(diagonal, vector, -0.1, 0.1)
    np.testing.assert_array_equal(got.primal, 0.1 * outward)
    lower, upper = np.full(7, -0.3), np.full(7, 0.3)
    lower[2] = upper[2] = 0.2
    free = np.arange(7) != 2
    want = scipy_solution(A[:, free], b - A[:, 2] * 0.2, lower[free], upper[free]).x
    got, _ = bounded(A, jnp.asarray(b), lower, upper)
    np.testing.assert_allclose(got.primal[free], want, atol=1e-10)
    assert got.primal[2] == 0.2


def test_least_norm_where_no_bound_is_met_and_x0_chooses_elsewhere():
    A, b, _, _ = problem((7, 12), 3.0, 4)
    got, _ = bounded(A, jnp.asarray(b), -100.0, 100.0)
    np.testing.assert_allclose(got.primal, np.linalg.pinv(A) @ b, atol=1e-12)
    x0 = helpers.rng(5).standard_normal(12)
    got, _ = bounded(A, jnp.asarray(b), -100.0, 100.0, x0=jnp.asarray(x0))
    want = x0 + np.linalg.pinv(A) @ (b - A @ x0)
    np.testing.assert_allclose(got.primal, want, atol=1e-12)


def loss(weights, A, b, damp, lower, upper, solver=TIGHT):
    solution, _ = bounded(A, b, lower, upper, damp, solver)
    w, u, v = weights
    x = solution.primal
    return w @ x + 0.5 * x @ x + u @ solution.residual + v @ solution.dual


def scipy_loss(weights, A, b, damp, lower, upper):
    solution = scipy_solution(A, b, lower, upper, damp)
    x, active = solution.x, solution.active_mask != 0
    r = b - A @ x
    g = np.where(active, (damp or 0) ** 2 * x - A.T @ r, 0)
    w, u, v = weights
    return w @ x + 0.5 * x @ x + u @ r + v @ g


@pytest.fixture(scope="module")
def differentiable():
    """Active bounds of both kinds, inactive ones, and infinite ones."""
    rng = helpers.rng(3)
    A, b = helpers.matrix(rng, (12, 8), condition=5.0), rng.standard_normal(12)
    lower, upper = -0.1 - 0.05 * rng.random(8), 0.2 + 0.05 * rng.random(8)
    lower[0], upper[1] = -INF, INF
    mask = scipy_solution(A, b, lower, upper, 0.3).active_mask
    assert set(mask) == {-1, 0, 1}
    weights = tuple(rng.standard_normal(k) for k in (8, 12, 8))
    tangents = [rng.standard_normal(np.shape(z)) for z in (A, b, 0.3, lower, upper)]
    return weights, (A, b, 0.3, lower, upper), tangents


@pytest.mark.parametrize("damped", [True, False], ids=["damped", "undamped"])
def test_gradients_are_those_of_scipys_solution(differentiable, damped):
    weights, args, tangents = differentiable
    arrays = [jnp.asarray(z) for z in args]

    def ours(A, b, damp, lower, upper):
        return loss(weights, A, b, damp if damped else None, lower, upper)

    gradients = jax.jit(jax.grad(ours, argnums=range(5)))(*arrays)
    forward = jax.jit(lambda *t: jax.jvp(ours, arrays, list(t))[1])
    step = 1e-6
    for i, tangent in enumerate(tangents):
        values = []
        for sign in (1, -1):
            moved = [z if damped or k != 2 else None for k, z in enumerate(args)]
            if moved[i] is not None:
                moved[i] = args[i] + sign * step * tangent
            values.append(scipy_loss(weights, *moved))
        want = (values[0] - values[1]) / (2 * step)
        got = np.sum(np.asarray(gradients[i]) * tangent)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
        one = [
            jnp.asarray(tangent if k == i else 0 * z) for k, z in enumerate(tangents)
        ]
        np.testing.assert_allclose(forward(*one), got, rtol=1e-9, atol=1e-11)


def test_the_default_solver_differentiates_with_what_it_chose():
    A, b, lower, upper = problem((12, 7), 1e6, 3)
    free = scipy_solution(A, b, lower, upper).active_mask == 0
    assert 0 < np.sum(free) < 7
    f = lambda b: bounded(A, b, lower, upper, None, lf.AutoSolver())[0].primal
    want = np.zeros((7, 12))
    want[free] = np.linalg.pinv(A[:, free])
    jacobian = jax.jit(jax.jacrev(f))(jnp.asarray(b))
    assert helpers.relative_error(jacobian, want) < 1e-8


@pytest.mark.slow
def test_second_derivatives(differentiable):
    """Forward and reverse over reverse, against differences of the gradient."""
    weights, args, tangents = differentiable
    point = [jnp.asarray(z) for z in args[:2]]
    rest = [jnp.asarray(z) for z in args[3:]]
    direction = [jnp.asarray(t) for t in tangents[:2]]
    argnums = (0, 1)

    def gradient(A, b, damp):
        f = lambda A, b: loss(weights, A, b, damp, *rest)
        return jax.grad(f, argnums)(A, b)

    def along(A, b):
        pairs = zip(gradient(A, b, None), direction, strict=True)
        return sum(jnp.sum(g * d) for g, d in pairs)

    damp = jnp.asarray(args[2])
    forward = lambda A, b: jax.jvp(lambda *z: gradient(*z, damp), [A, b], direction)[1]
    step = 1e-5
    for got, lam in ((jax.grad(along, argnums), None), (forward, damp)):
        jitted = jax.jit(gradient)
        up, down = (
            jitted(
                *(z + s * step * d for z, d in zip(point, direction, strict=True)), lam
            )
            for s in (1, -1)
        )
        for value, a, b in zip(jax.jit(got)(*point), up, down, strict=True):
            assert helpers.relative_error(value, (a - b) / (2 * step)) < 1e-6


def test_vmap_of_values_and_gradients():
    A, _, lower, upper = problem((12, 7), 10.0, 6)
    B = jnp.asarray(helpers.rng(7).standard_normal((3, 12)))

    def total(b):
        solution, _ = bounded(A, b, lower, upper)
        return jnp.sum(solution.primal**2)

    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(total)))(B)
    single = jax.jit(jax.value_and_grad(total))
    for i in range(3):
        value, gradient = single(B[i])
        np.testing.assert_allclose(values[i], value, rtol=1e-10)
        np.testing.assert_allclose(gradients[i], gradient, atol=1e-10)


@pytest.mark.float32
def test_pytrees_scalar_bounds_and_precision():
    dtype = helpers.dtype_of("real")
    rng = helpers.rng(8)
    A = helpers.matrix(rng, (12, 7), condition=5.0, dtype=dtype)
    b = rng.standard_normal(12).astype(dtype)

    def function(x):
        out = jnp.asarray(A) @ jnp.concatenate([x["p"], x["q"].ravel()])
        return out[:5], out[5:]

    x = {"p": jnp.zeros(3, dtype), "q": jnp.zeros((2, 2), dtype)}
    operator = lf.FunctionOperator(function, x)
    vector = (jnp.asarray(b[:5]), jnp.asarray(b[5:]))
    lower = {"p": None, "q": np.full((2, 2), -0.1, dtype)}
    got, stats = bounded(operator, vector, lower, 0.2, solver=lf.LSMR())
    low = np.array([-INF] * 3 + [-0.1] * 4)
    want = scipy_solution(A.astype(float), b.astype(float), low, np.full(7, 0.2)).x
    flat = np.concatenate([got.primal["p"], got.primal["q"].ravel()])
    assert flat.dtype == dtype
    np.testing.assert_allclose(flat, want, atol=500 * np.finfo(dtype).eps)
    assert got.dual["q"].shape == (2, 2)
    assert int(stats["num_steps"]) > 0


def test_float32_with_64_bit_types_turned_on():
    A, b, lower, upper = (z.astype(np.float32) for z in problem((12, 7), 5.0, 9))
    got, _ = bounded(
        A, jnp.asarray(b), lower, upper, jnp.asarray(0.1, jnp.float32), lf.LSMR()
    )
    assert {z.dtype for z in jax.tree.leaves(got)} == {np.dtype("float32")}
    want = scipy_solution(*(z.astype(float) for z in (A, b, lower, upper)), 0.1).x
    np.testing.assert_allclose(got.primal, want, atol=1e-4)


def test_cost_of_the_solution_is_bounded_by_steps_and_failure_is_told():
    A, b, lower, upper = problem((20, 40), 1e4, 1)
    short = lf.LSMR(rtol=1e-14, max_steps=5)
    _, stats = bounded(A, jnp.asarray(b), lower, upper, None, short, throw=False)
    assert stats["stop_reason"] == lf.StopReason.max_steps_reached
    assert int(stats["num_steps"]) <= 5
    with pytest.raises(eqx.EquinoxRuntimeError, match="max_steps"):
        jax.block_until_ready(bounded(A, jnp.asarray(b), lower, upper, None, short))


def test_nonfinite_and_crossed_bounds_at_run_time():
    A, b, lower, upper = problem((12, 7), 5.0, 1)
    _, stats = bounded(A, jnp.asarray(b) * jnp.nan, lower, upper, throw=False)
    assert stats["stop_reason"] == lf.StopReason.nonfinite_input
    box = Box(jnp.asarray(upper), jnp.asarray(lower))
    args = lf.as_operator(A), jnp.asarray(b), None, box, TIGHT
    _, stats = solve(*args, throw=False)
    assert stats["stop_reason"] == lf.StopReason.nonfinite_input
    with pytest.raises(eqx.EquinoxRuntimeError, match="lower bound"):
        jax.block_until_ready(solve(*args))


def test_bad_bounds_are_told_while_tracing():
    real = jax.ShapeDtypeStruct((3,), np.dtype("float64"))
    with pytest.raises(TypeError, match="must be real"):
        as_box(0.0, None, jax.ShapeDtypeStruct((3,), np.dtype("complex128")))
    with pytest.raises(ValueError, match="at most its upper"):
        as_box(1.0, 0.0, real)
    with pytest.raises(ValueError, match="at most its upper"):
        as_box(np.nan, None, real)
    with pytest.raises(ValueError, match=r"lower.*shape"):
        as_box(np.zeros(4), None, real)
    with pytest.raises(ValueError, match=r"upper.*structure"):
        as_box(None, (0.0, 1.0), real)
    with pytest.raises(TypeError, match=r"lower.*dtype"):
        as_box(np.zeros(3, np.float32), None, real)


def test_solvers_and_adjoints_that_cannot():
    A, b, lower, upper = problem((12, 7), 5.0, 1)
    with pytest.raises(TypeError, match="rank deficiency"):
        bounded(A, jnp.asarray(b), lower, upper, None, lf.QR())
    operator = lf.as_operator(A)
    box = as_box(lower, upper, operator.in_structure())
    plain = lf.Problem(operator, jnp.asarray(b))
    with pytest.raises(TypeError, match="ImplicitAdjoint"):
        solve_bounded(plain, box, TIGHT, lf.UnrolledAdjoint(), throw=True)
