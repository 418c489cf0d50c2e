"""The smallest weights are zero: against sorting; compensation against NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lsqflow as lf
from lsqflow.constraint import quantile

from .helpers import X64, dtype_of, normal, relative_error, rng


def params(dtype, scale=1.0):
    """Two kernels of unlike size, what is no weight, and a hole."""
    p = {
        "bias": normal(rng(1), 5, dtype),
        "kernel": normal(rng(2), (7, 9), dtype),
        "conv": normal(rng(3), (3, 2, 4, 8), dtype) * dtype.type(scale),
        "none": None,
    }
    return jax.tree.map(jnp.asarray, p)


def by_sorting(x, k):
    """The k smallest of an array, by a full sort."""
    order = np.argsort(np.abs(x), axis=None, kind="stable")
    mask = np.zeros(x.size, bool)
    mask[order[:k]] = True
    return mask.reshape(x.shape)


@pytest.mark.float32
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 1.0])
def test_masks_against_sorting(fraction):
    p = params(dtype_of("real"), 0.1)
    both = np.concatenate([p["kernel"].ravel(), p["conv"].ravel()])
    want = by_sorting(both, round(fraction * both.size))
    got = jax.jit(lf.Sparsity(fraction).mask)(p)
    np.testing.assert_array_equal(got["kernel"].ravel(), want[:63])
    np.testing.assert_array_equal(got["conv"].ravel(), want[63:])
    assert not got["bias"].any()
    assert got["none"] is None
    got = jax.jit(lf.Sparsity(fraction, "layer").mask)(p)
    for name in ("kernel", "conv"):
        k = round(fraction * p[name].size)
        np.testing.assert_array_equal(got[name], by_sorting(p[name], k))


@pytest.mark.float32
def test_any_numbers_of_any_precision():
    """All magnitudes, both infinities, the smallest numbers; many dtypes at once."""
    generator = rng(4)
    wide = np.float32(10.0) ** generator.uniform(-37, 37, 500).astype(np.float32)
    wide *= generator.choice([-1, 1], 500).astype(np.float32)
    wide[:4] = [np.inf, -np.inf, 0, -0.0]
    leaves = [
        jnp.asarray(wide),
        jnp.asarray(wide[:50], jnp.bfloat16),
        jnp.asarray(normal(generator, 40, np.float32), jnp.float16),
        jnp.asarray(normal(generator, (5, 6), dtype_of("real"))),
    ]
    flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])
    chosen = jax.jit(quantile.smallest)
    for k in (0, 1, 4, 5, 77, 400, flat.size - 3, flat.size):
        masks = chosen(leaves, jnp.uint32(k))
        got = np.concatenate([np.ravel(m) for m in masks])
        threshold = np.sort(np.abs(flat))[max(k - 1, 0)]
        want = np.abs(flat) <= threshold if k else np.zeros(flat.size, bool)
        np.testing.assert_array_equal(got, want)


def test_ties_zeros_and_nan():
    """Equal weights are chosen together; zeros first; what is not a number never."""
    x = jnp.asarray([[3.0, -1, 1, 1], [0, 5, np.nan, 2]])
    for k, count in ((0, 0), (1, 1), (2, 4), (3, 4), (4, 4), (5, 5), (7, 7)):
        mask = np.asarray(lf.Sparsity(k / 8).mask(x))
        assert mask.sum() == count
        assert not mask[1, 2]
    assert lf.Sparsity(0.25).mask(jnp.zeros((2, 4))).all()


def count_passes(monkeypatch, x, k):
    """How often the data is read, counted by a callback in each pass."""
    passes = []
    plain = quantile.count

    def counted(conditions, dtype):
        jax.debug.callback(lambda: passes.append(None))
        return plain(conditions, dtype)

    monkeypatch.setattr(quantile, "count", counted)
    # Without the cache of compiled programs, which do not have the callback.
    jax.block_until_ready(quantile.smallest.__wrapped__([x], jnp.uint32(k)))
    jax.effects_barrier()
    return len(passes)


@pytest.mark.float32
def test_passes_and_memory(monkeypatch):
    """One pass if enough weights are zero, few otherwise; no copy of the weights."""
    dtype = dtype_of("real")
    x = jnp.asarray(normal(rng(), (300, 100), dtype))
    sparse = jnp.where(by_sorting(x, 27000), 0, x)
    assert count_passes(monkeypatch, sparse, 27000) == 1
    assert count_passes(monkeypatch, sparse, 20000) == 1
    assert count_passes(monkeypatch, x, 0) == 1
    assert count_passes(monkeypatch, x, 27000) <= (22 if X64 else 12)

    def pin(x):
        return jnp.where(lf.Sparsity(0.9).mask(x), 0, x)

    used = jax.jit(pin).lower(x).compile().memory_analysis()
    if used is not None:
        assert used.temp_size_in_bytes < x.size


@pytest.mark.float32
def test_residual_jacobian_and_violation(key):
    dtype = dtype_of("real")
    p = params(dtype)
    spec = lf.Sparsity(0.5)
    mask = jax.tree.map(np.asarray, spec.mask(p))
    residual = spec.residual(p)
    want = np.where(mask["kernel"], p["kernel"], 0)
    np.testing.assert_array_equal(residual["kernel"], want)
    J = spec.jacobian(p)
    assert J.mv(p)["conv"].dtype == dtype
    # Numbers well apart from the threshold: the mask stays what it is nearby.
    tangent = jax.tree.map(jnp.ones_like, p)
    slope = jax.jvp(spec.residual, (p,), (tangent,))[1]
    assert relative_error(J.mv(tangent), slope) == 0
    assert lf.check_adjoint(J, key)
    assert spec.violation(p) == 1
    pinned = jax.tree.map(lambda x, m: jnp.where(m, 0, x), p, mask)
    assert spec.violation(pinned) == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, spec.mask(pinned), mask))
    more = lf.Sparsity(0.75)
    share = 1 - round(0.5 * 255) / round(0.75 * 255)
    assert abs(more.violation(pinned) - share) < 1e-6
    assert more.violation(p).dtype == dtype


@pytest.mark.float32
@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_patterns(axis):
    """Two of four along an axis are left: the largest, and of equal ones the first."""
    x = normal(rng(5), (8, 12, 4), dtype_of("real"))
    x[:4, :4, :4] = 1
    mask = np.asarray(lf.Sparsity(pattern=(2, 4), axis=axis).mask(jnp.asarray(x)))
    groups = np.moveaxis(x, axis, -1)
    groups = np.abs(groups.reshape(*groups.shape[:-1], -1, 4))
    order = np.argsort(-groups, axis=-1, kind="stable")
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, order[..., :2], True, axis=-1)
    shape = np.moveaxis(x, axis, -1).shape
    np.testing.assert_array_equal(mask, np.moveaxis(~kept.reshape(shape), -1, axis))


@pytest.mark.float32
def test_schedules():
    """A traced fraction, and the formula of Zhu and Gupta."""
    cubic = lf.cubic_sparsity(0.8, 10, 50, initial=0.2, every=8)
    spec = lf.Sparsity(0.8, schedule=cubic)
    x = jnp.asarray(normal(rng(6), (40, 25), dtype_of("real")))

    @jax.jit
    def share(step):
        return jnp.sum(spec.at(step).mask(x)), cubic(step)

    for step, used in ((0, 10), (17, 10), (18, 18), (35, 34), (50, 50), (99, 50)):
        want = 0.8 - 0.6 * (1 - (used - 10) / 40) ** 3
        count, fraction = share(step)
        assert count == round(1000 * want)
        assert abs(fraction - want) < 1e-6
    # A schedule of Optax, the same on part of the parameters.
    linear = lf.Sparsity(0.8, schedule=optax.linear_schedule(0.0, 0.8, 8))
    pinned = linear.on(lambda p: p["w"]).at(4).mask({"w": x, "u": x})
    assert pinned["w"].sum() == 400
    assert not pinned["u"].any()
    assert lf.Sparsity(0.8).at(3).fraction == 0.8


@pytest.mark.float32
def test_transformations():
    """Under vmap each has its own threshold; derivatives pass outside of the mask."""
    x = normal(rng(7), (3, 20, 10), dtype_of("real"))
    spec = lf.Sparsity(0.4)
    got = jax.jit(jax.vmap(spec.mask))(x)
    for i in range(3):
        np.testing.assert_array_equal(got[i], by_sorting(x[i], 80))
    norm = lambda x: jnp.sum(spec.residual(x) ** 2) / 2
    want = x[0] * by_sorting(x[0], 80)
    np.testing.assert_array_equal(jax.jit(jax.grad(norm))(x[0]), want)


def test_models_and_sharded_weights():
    """Of a model, matrices alone; on several devices, the same as on one."""
    model = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
    weights = eqx.filter(model, eqx.is_inexact_array)
    mask = lf.Sparsity(0.5).mask(weights)
    assert sum(int(m.sum()) for m in jax.tree.leaves(mask)) == 52
    assert not any(layer.bias.any() for layer in mask.layers)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("i"))
    x = normal(rng(8), (16, 10), np.float64)
    compiled = jax.jit(lf.Sparsity(0.7).mask).lower(jax.device_put(x, rows)).compile()
    np.testing.assert_array_equal(compiled(jax.device_put(x, rows)), by_sorting(x, 112))
    # Only counts travel.
    assert "f64[4,10]" in compiled.as_text()
    assert "f64[16,10]" not in compiled.as_text()


def surgery(W, mask, X, damp=0.0):
    """Row by row: what is left of the weights, by NumPy."""
    V = np.where(mask, 0, W)
    N = len(X)
    for v, w, m in zip(V, W, mask, strict=True):
        kept = np.flatnonzero(~m)
        A = np.vstack([X[:, kept] / np.sqrt(N), damp * np.eye(len(kept))])
        b = np.concatenate([X @ w / np.sqrt(N), damp * w[kept]])
        v[kept] = w[kept] + np.linalg.lstsq(A, b - A @ w[kept])[0]
    return V


@pytest.mark.float32
@pytest.mark.parametrize(("samples", "damp"), [(40, None), (40, 0.3), (4, None)])
def test_compensation_against_numpy(samples, damp):
    dtype = dtype_of("real")
    W = normal(rng(9), (6, 10), dtype)
    # Inputs that repeat one another: there is something to make up for.
    X = normal(rng(10), (samples, 10), dtype)
    X[:, 5:] = X[:, :5] + X[:, 5:] / 4
    mask = np.array(lf.Sparsity(0.5).mask(jnp.asarray(W)))
    mask[0], mask[1] = True, False
    solver = lf.LSMR(rtol=1e-12 if X64 else 1e-6)
    V = lf.compensate(W, mask, X, solver, damp=damp)
    assert V.dtype == dtype
    assert relative_error(V, surgery(W, mask, X, damp or 0.0)) < (1e-9 if X64 else 1e-4)
    assert not V[mask].any()
    np.testing.assert_array_equal(V[1], W[1])
    error = lambda U: np.linalg.norm(X @ (np.asarray(U) - W)[2:].T)
    assert error(V) < 0.9 * error(np.where(mask, 0, W))


def test_derivatives_of_compensation():
    W, X = normal(rng(9), (2, 5), np.float64), normal(rng(10), (9, 5), np.float64)
    mask = by_sorting(W, 4)
    solver = lf.LSMR(rtol=1e-13)
    loss = lambda W, X: jnp.sum(jnp.sin(lf.compensate(W, mask, X, solver, damp=0.1)))
    got = jax.jit(jax.grad(loss, (0, 1)))(W, X)
    dW, dX = normal(rng(11), W.shape, np.float64), normal(rng(12), X.shape, np.float64)
    h = 1e-6
    ahead, behind = (
        np.sum(np.sin(surgery(W + s * dW, mask, X + s * dX, 0.1))) for s in (h, -h)
    )
    slope = np.sum(got[0] * dW) + np.sum(got[1] * dX)
    assert abs(slope - (ahead - behind) / (2 * h)) < 1e-7


matrix = jnp.ones((4, 6))
BAD = {
    "neither": (lf.Sparsity, ValueError, "a fraction, .* or a pattern"),
    "both": (lambda: lf.Sparsity(0.5, pattern=(2, 4)), ValueError, "or a pattern"),
    "percent": (lambda: lf.Sparsity(90), ValueError, "from 0 to 1; got 90"),
    "scope": (lambda: lf.Sparsity(0.5, "local"), ValueError, "'local'"),
    "schedule": (lambda: lf.Sparsity(0.5, schedule=3), TypeError, "a function"),
    "pattern": (lambda: lf.Sparsity(pattern=(4, 2)), ValueError, "0 < n < m"),
    "numbers": (lambda: lf.Sparsity(pattern=(2,)), ValueError, "two integers"),
    "constant": (
        lambda: lf.Sparsity(pattern=(2, 4), schedule=lambda step: 0.5),
        ValueError,
        "no schedule",
    ),
    "vectors": (
        lambda: lf.Sparsity(0.5).mask({"b": jnp.ones(3)}),
        ValueError,
        r"got \(3,\)\. Set `min_ndim` to 1",
    ),
    "axis": (
        lambda: lf.Sparsity(pattern=(2, 4)).mask({"w": matrix}),
        ValueError,
        r"multiple of 4; got shape \(4, 6\) at \['w'\]",
    ),
    "cubic": (lambda: lf.cubic_sparsity(0.9, 10, 10), ValueError, "begin < end"),
    "kernel": (
        lambda: lf.compensate(matrix, matrix > 0, np.ones((5, 4))),
        ValueError,
        r"\(samples, 6\).*got \(5, 4\)",
    ),
    "mask": (
        lambda: lf.compensate(matrix, matrix > 0, np.ones((5, 6), np.float32)),
        TypeError,
        "same dtype",
    ),
    "shape": (
        lambda: lf.compensate(matrix, matrix[0] > 0, matrix),
        ValueError,
        "mask of the same shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make()
