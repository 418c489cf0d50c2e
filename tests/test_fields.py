"""Vector fields: conservative, without divergence; against Jacobians by hand."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, count_traces, dtype_of, normal, relative_error, rng

TOLERANCE = 1e-12 if X64 else 2e-5
DIMENSION, BATCH = 3, 4
SIGNS = np.array(list(itertools.product([-1, 1], repeat=DIMENSION)))


def field(params, x):
    """`B tanh(W x + b)`, also for points that are not one-dimensional."""
    h = jnp.tanh(params["W"] @ x.reshape(-1) + params["b"])
    return (params["B"] @ h).reshape(x.shape)


def problem(dtype, *, symmetric=False):
    W, b, B = (normal(rng(i), s, dtype) for i, s in enumerate([(5, 3), 5, (3, 5)]))
    params = {"W": W, "b": b, "B": W.T.copy() if symmetric else B}
    return jax.tree.map(jnp.asarray, params), normal(rng(3), (BATCH, DIMENSION), dtype)


def jacobians(params, points, xp=np):
    """`B diag(1 − tanh²) W` at each of the points."""
    h = xp.tanh(points @ params["W"].T + xp.reshape(params["b"], (1, -1)))
    return xp.einsum("ij,nj,jk->nik", params["B"], 1 - h**2, params["W"])


def probes_of(dtype):
    """Probes of both signs in each combination, so that means are expectations."""
    one = np.broadcast_to(SIGNS[:, None], (8, BATCH, DIMENSION)).astype(dtype)
    i, j = np.indices((8, 8)).reshape(2, -1)
    return one, np.stack([one[i], one[j]], axis=1)


SPECS = {
    "exact": (lf.Conservative, {}),
    "probes": (lf.Conservative, {"probes": 8}),
    "pairs": (lf.Conservative, {"probes": 64, "pairs": True}),
    "trace": (lf.DivergenceFree, {}),
    "hutchinson": (lf.DivergenceFree, {"probes": 8}),
}


def case(name, points, function=field):
    """The spec, its further arguments, and its residual written another way."""
    cls, options = SPECS[name]
    one, two = probes_of(points.dtype)
    probes = {"exact": (), "trace": (), "pairs": (two,)}.get(name, (one,))
    i, j = np.triu_indices(DIMENSION, 1)

    def formula(J, xp=np):
        A = (J - xp.swapaxes(J, 1, 2)) / 2
        trace = xp.trace(J, axis1=1, axis2=2) / BATCH**0.5
        return {
            "exact": lambda: A[:, i, j] * (2 / BATCH) ** 0.5,
            "probes": lambda: xp.einsum("nij,knj->kni", A, one) / (8 * BATCH) ** 0.5,
            "pairs": lambda: xp.einsum("kni,nij,knj->kn", two[:, 0], A, two[:, 1]) / 16,
            "trace": lambda: trace,
            "hutchinson": lambda: trace,
        }[name]()

    return cls(function, **options), (points, *probes), formula


@pytest.mark.float32
@pytest.mark.parametrize("name", SPECS)
def test_residual_and_violation(name):
    dtype = dtype_of("real")
    params, points = problem(dtype)
    spec, args, formula = case(name, points)
    J = jacobians(jax.tree.map(np.asarray, params), points)
    residual = jax.jit(spec.residual)(params, *args)
    assert residual.dtype == dtype
    assert relative_error(residual, formula(J)) < TOLERANCE
    # Over all the signs, the mean square of the estimates is the square of the norm.
    Jt = np.swapaxes(J, 1, 2)
    trace = np.trace(J, axis1=1, axis2=2)
    conservative = isinstance(spec, lf.Conservative)
    size = np.linalg.norm(J - Jt) / 2 if conservative else np.linalg.norm(trace)
    assert abs(np.linalg.norm(residual) / (size / BATCH**0.5) - 1) < TOLERANCE
    want = size / np.linalg.norm(J) * (2 if conservative else DIMENSION**-0.5)
    violation = jax.jit(spec.violation)(params, *args)
    assert violation.dtype == dtype
    assert abs(violation / want - 1) < TOLERANCE


@pytest.mark.float32
@pytest.mark.parametrize("name", SPECS)
def test_jacobian_in_the_parameters(name, key):
    dtype = dtype_of("real")
    params, points = problem(dtype)
    spec, args, formula = case(name, points)

    @jax.jit
    def both(params, direction):
        """A product, and the dense matrix, of formulas without nested derivatives."""
        operator = spec.jacobian(params, *args)
        reference = lambda p: formula(jacobians(p, jnp.asarray(points), jnp), jnp)
        return (
            operator.mv(direction),
            operator.rmv(operator.mv(direction)),
            jax.jacobian(reference)(params),
        )

    direction = jax.tree.map(lambda x: normal(rng(9), x.shape, dtype), params)
    product, back, dense = both(params, direction)
    rows = product.size
    M = np.concatenate([np.reshape(dense[k], (rows, -1)) for k in "BWb"], axis=1)
    flat = lambda p: np.concatenate([np.ravel(p[k]) for k in "BWb"])
    assert relative_error(np.ravel(product), M @ flat(direction)) < TOLERANCE
    assert relative_error(flat(back), M.T @ np.ravel(product)) < TOLERANCE
    assert lf.check_adjoint(spec.jacobian(params, *args), key)
    if X64:
        step = lambda h: jax.tree.map(lambda p, d: p + h * d, params, direction)
        residual = jax.jit(spec.residual)
        h = 1e-5
        slope = (residual(step(h), *args) - residual(step(-h), *args)) / (2 * h)
        assert relative_error(product, slope) < 1e-8


@pytest.mark.float32
def test_gradients_rotations_and_expansions():
    dtype = dtype_of("real")
    matrices = {
        "gradient": (np.diag([1.0, 2.0, -4.0]) + 1, 0, None),
        "expansion": (np.eye(3), 0, 1),
        "rotation": (np.cross(np.eye(3), [[1.0, 2.0, 3.0]]), 2, 0),
        "shear": (np.eye(3, k=1), 2**0.5, 0),
        "zero": (np.zeros((3, 3)), 0, 0),
    }
    points = normal(rng(), (BATCH, DIMENSION), dtype)
    cases = [case(name, points, lambda M, x: M @ x)[:2] for name in SPECS]
    violations = jax.jit(lambda M: [spec.violation(M, *args) for spec, args in cases])
    for name, (M, curl, divergence) in matrices.items():
        *curls, exact, estimate = violations(jnp.asarray(M, dtype))
        np.testing.assert_allclose(curls, curl, atol=TOLERANCE, err_msg=name)
        if divergence is not None:
            want = [divergence] * 2
            np.testing.assert_allclose([exact, estimate], want, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["exact", "probes", "pairs"])
def test_a_gradient_has_no_residual(name):
    params, points = problem(np.float64, symmetric=True)
    spec, args, _ = case(name, points)
    assert np.max(np.abs(jax.jit(spec.residual)(params, *args))) < 1e-13
    moved = {**params, "B": params["B"].at[0, 0].add(1e-3)}
    assert np.max(np.abs(spec.residual(moved, *args))) > 1e-5


def test_a_zero_for_each_probe_is_more_than_a_trace_of_zero():
    """Probes of ±1 do not see the diagonal, and do see the rest of J + Jᵀ."""
    points = normal(rng(), (BATCH, DIMENSION), np.float64)
    probes = probes_of(points.dtype)[0]
    spec = lf.DivergenceFree(lambda M, x: M @ x, probes=1)
    one = lambda M: [spec.residual(jnp.asarray(M), points, p[None]) for p in probes]
    assert np.allclose(one(np.diag([1.0, 2.0, -3.0])), 0)
    assert np.allclose(one(np.cross(np.eye(3), [[1.0, 2.0, 3.0]])), 0)
    shear = np.asarray(one(np.eye(3, k=2)))
    assert np.allclose(np.abs(shear), BATCH**-0.5)
    assert np.allclose(shear.mean(0), 0)


@pytest.mark.float32
def test_points_of_any_shape_conditions_and_vmap():
    """Images and noise levels; a batch of parameters, differentiated."""
    dtype = dtype_of("real")
    params, points = problem(dtype)
    times = np.linspace(1, 2, BATCH, dtype=dtype)
    images = points.reshape(BATCH, 3, 1)
    spec = lf.Conservative(lambda p, x, t: field(p, x) / t)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)

    @jax.jit
    @jax.vmap
    def energy(p):
        value = lambda p: jnp.sum(spec.residual(p, (images, times)) ** 2)
        return jax.value_and_grad(value)(p)

    got, slope = energy(many)
    for i in range(2):
        p = jax.tree.map(lambda x, i=i: x[i], many)

        def reference(p):
            J = jacobians(p, jnp.asarray(points), jnp) / times[:, None, None]
            return jnp.sum((J - jnp.swapaxes(J, 1, 2)) ** 2) / (4 * BATCH)

        value, gradient = jax.value_and_grad(reference)(p)
        assert abs(got[i] / value - 1) < TOLERANCE
        mine = jax.tree.map(lambda x, i=i: x[i], slope)
        assert relative_error(mine, gradient) < 10 * TOLERANCE


@pytest.mark.float32
@pytest.mark.parametrize(
    "options", [{}, {"probes": 2}, {"probes": 2, "pairs": True}], ids=str
)
def test_sampler(options, key):
    dtype = dtype_of("real")
    params, points = problem(dtype)
    spec = lf.Conservative(field, **options)
    drawn = spec.sampler(lambda key: jax.random.normal(key, points.shape, dtype))(key)
    shapes = [x.shape for x in drawn]
    middle = {0: None, 1: (2,), 2: (2, 2)}[len(options)]
    assert shapes == [(4, 3), *([] if middle is None else [(*middle, 4, 3)])]
    assert all(x.dtype == dtype for x in drawn)
    if options:
        assert set(np.unique(drawn[1])) == {-1, 1}

    counted, traces = count_traces(lambda step, c, p: c.at(step).residual(p))
    stays = lf.Sampled(spec, spec.sampler(jnp.asarray(points)), key)
    residual = eqx.filter_jit(counted)
    first, again, other = (
        residual(jnp.asarray(step), stays, params) for step in (1, 1, 2)
    )
    assert len(traces) == 1
    assert np.array_equal(first, again)
    # Only probes are drawn anew here: exact residuals stay.
    assert np.array_equal(first, other) == (not options)


def test_estimates_agree_with_exact_residuals_on_average(key):
    params, points = problem(np.float64)
    exact = lf.Conservative(field).residual(params, points)
    for options in ({"probes": 2000}, {"probes": 2000, "pairs": True}):
        spec = lf.Conservative(field, **options)
        got = jax.jit(spec.residual)(params, *spec.sampler(points)(key))
        ratio = np.linalg.norm(got) / np.linalg.norm(exact)
        assert abs(ratio - 1) < 0.06


BAD = {
    "no points": (lf.Conservative(field), (), TypeError, "needs points at each step"),
    "no probes": (
        lf.Conservative(field, 1),
        (np.ones((2, 3)),),
        TypeError,
        "points and probes at each step",
    ),
    "integers": (
        lf.DivergenceFree(field),
        (np.ones((2, 3), int),),
        TypeError,
        r"floating-point; got i64\[2,3\]",
    ),
    "no batch": (
        lf.Conservative(field),
        (np.float64(1),),
        ValueError,
        r"`\(batch, …\)`",
    ),
    "shape": (
        lf.Conservative(lambda p, x: x[:2]),
        (np.ones((4, 3)),),
        ValueError,
        r"with the batch f64\[4,3\]; it returns f64\[4,2\]",
    ),
    "probes": (
        lf.DivergenceFree(field, 2),
        (np.ones((4, 3)), np.ones((4, 3))),
        ValueError,
        r"shape \(2, 4, 3\) for points .* got \(4, 3\)",
    ),
    "complex": (
        lf.DivergenceFree(lambda p, x: x.astype(complex)),
        (np.ones((4, 3)),),
        ValueError,
        r"f64\[4,3\]; it returns c128\[4,3\]",
    ),
    "line": (
        lf.Conservative(lambda p, x: x),
        (np.ones((4, 1)),),
        ValueError,
        "one dimension",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_points(name):
    spec, args, error, message = BAD[name]
    with pytest.raises(error, match=message):
        spec.residual(problem(np.float64)[0], *args)


def test_widened_parameters():
    """Parameters in more digits than the points, as in mixed precision."""
    params, points = problem(np.float32)
    points = jnp.asarray(points, jnp.bfloat16)
    _, (_, probes), formula = case("probes", points)
    wide = lf.Conservative(lambda p, x: field(p, x.astype(np.float32)), 8)
    residual = wide.residual(params, points, probes)
    assert residual.dtype == np.float32
    J = jacobians(jax.tree.map(np.asarray, params), np.asarray(points, np.float32))
    assert relative_error(residual, formula(J)) < 1e-5


def test_bad_options():
    for cls, options in itertools.product(
        (lf.Conservative, lf.DivergenceFree), ({"probes": 0}, {"probes": True})
    ):
        with pytest.raises(ValueError, match="`probes` must be a positive integer"):
            cls(field, **options)
    with pytest.raises(ValueError, match="no pairs without probes"):
        lf.Conservative(field, pairs=True)
