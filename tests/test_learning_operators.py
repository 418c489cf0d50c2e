"""Gauss–Newton, kernel matrices and random features: values, gradients, memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import lsqflow as lf
from lsqflow._lstsq import _lstsq

from .cases.learning import Gaussian
from .helpers import count_traces, dtype_of, normal, relative_error, rng

EPS = float(np.finfo(dtype_of("real")).eps)
kinds = pytest.mark.parametrize("kind", ["real", "complex"])


def points(n, seed=0, dim=2):
    return rng(seed).standard_normal((n, dim)).astype(dtype_of("real"))


def dense_kernel(x, y, lengthscale, wave=None):
    K = np.exp(-cdist(x, y, "sqeuclidean") / (2 * lengthscale**2))
    return K if wave is None else K * np.exp(1j * ((x @ wave)[:, None] - y @ wave))


def gaussian(kind="real", lengthscale=0.8):
    dtype = dtype_of("real")
    wave = np.asarray([1.0, -2.0], dtype) if kind == "complex" else None
    return Gaussian(jnp.asarray(lengthscale, dtype), wave), wave


@eqx.filter_jit
def products(op, v, u):
    return op.mv(v), op.rmv(u), op.adjoint_mv(u), op.as_matrix()


def check_products(op, want, kind="real"):
    v, u = (jnp.asarray(normal(rng(8), n, dtype_of(kind))) for n in want.shape[::-1])
    got = products(op, v, u)
    for g, w in zip(got, (want @ v, want.T @ u, want.conj().T @ u, want), strict=True):
        assert g.shape == w.shape
        assert g.dtype == dtype_of(kind)
        assert relative_error(g, w) < 100 * EPS
    assert op.in_structure() == jax.ShapeDtypeStruct((want.shape[1],), dtype_of(kind))
    assert op.out_structure() == jax.ShapeDtypeStruct((want.shape[0],), dtype_of(kind))


# Kernels


@pytest.mark.float32
@kinds
@pytest.mark.parametrize("chunk_size", [None, 1, 5, 40])
def test_kernel_between_two_sets(kind, chunk_size):
    x, y = points(13), points(6, 1)
    k, wave = gaussian(kind)
    op = lf.KernelOperator(k, x, y, chunk_size=chunk_size)
    check_products(op, dense_kernel(x, y, 0.8, wave), kind)
    assert op.tags() == frozenset()


@pytest.mark.float32
@kinds
@pytest.mark.parametrize("noise", [None, 0.3, "diagonal"])
def test_kernel_of_one_set(kind, noise):
    x = points(13)
    k, wave = gaussian(kind)
    diagonal = np.linspace(1, 2, 13) if noise == "diagonal" else (noise or 0.0)
    noise = diagonal if noise == "diagonal" else noise
    op = lf.KernelOperator(k, x, noise=noise, chunk_size=5)
    want = dense_kernel(x, x, 0.8, wave) + np.diag(np.broadcast_to(diagonal, 13))
    check_products(op, want, kind)
    assert (lx.symmetric_tag in op.tags()) == (kind == "real")
    assert not lx.is_positive_semidefinite(op)
    told = lf.KernelOperator(k, x, noise=noise, positive_semidefinite=True)
    assert lx.is_positive_semidefinite(told)


def test_points_are_pytrees():
    place, label = points(9), np.arange(9) % 3

    def kernel(p, q):
        near = jnp.exp(-jnp.sum((p["at"] - q["at"]) ** 2) / 2)
        return jnp.where(p["label"] == q["label"], near, 0)

    op = lf.KernelOperator(kernel, {"at": place, "label": label}, chunk_size=4)
    check_products(op, dense_kernel(place, place, 1.0) * (label[:, None] == label))


def test_equal_kernel_functions_share_one_compilation():
    x, b = points(8), jnp.ones(8)

    def solve(scale):
        fn = lambda p, q: jnp.exp(-jnp.sum((p - q) ** 2) / scale)
        return lf.lstsq(lf.KernelOperator(fn, x, noise=1.0), b).value

    solve(jnp.asarray(2.0))
    before = _lstsq._cached._cache_size()
    got = solve(jnp.asarray(0.5))
    assert _lstsq._cached._cache_size() == before
    want = np.linalg.solve(dense_kernel(x, x, 0.5) + np.eye(8), b)
    np.testing.assert_allclose(got, want, rtol=1e-8)


def test_new_values_compile_nothing():
    product, traces = count_traces(lambda v, op: op.mv(v))
    product = eqx.filter_jit(product)
    for seed, scale in ((0, 0.5), (1, 2.0)):
        x = points(7, seed)
        op = lf.KernelOperator(gaussian(lengthscale=scale)[0], x, noise=scale)
        got = product(jnp.ones(7), op)
        want = dense_kernel(x, x, scale).sum(axis=1) + scale
        np.testing.assert_allclose(got, want, rtol=1e-12)
    assert len(traces) == 1


def test_stacked_kernels():
    x, v = points(7), normal(rng(1), (2, 7), np.float64)
    scales = np.asarray([0.5, 1.5])
    stack = jax.vmap(lambda s: lf.KernelOperator(Gaussian(s), x, noise=s))(scales)
    got = jax.vmap(lambda op, v: (op.mv(v), op.rmv(v)))(stack, v)
    for i, s in enumerate(scales):
        K = dense_kernel(x, x, s) + s * np.eye(7)
        np.testing.assert_allclose(got[0][i], K @ v[i], rtol=1e-12)
        np.testing.assert_allclose(got[1][i], K @ v[i], rtol=1e-12)


def slope(function, at, direction, h=1e-5):
    """The directional derivative of a NumPy function, by central differences."""
    up, down = (
        function(*(a + s * h * d for a, d in zip(at, direction, strict=True)))
        for s in (1, -1)
    )
    return (up - down) / (2 * h)


def check_derivatives(loss, dense, at):
    """Reverse mode of `loss` against differences of `dense`."""
    direction = [normal(rng(20 + i), np.shape(a), np.float64) for i, a in enumerate(at)]
    want = slope(dense, at, direction)
    gradient = jax.jit(jax.grad(loss, tuple(range(len(at)))))(*map(jnp.asarray, at))
    got = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    return direction, want


def test_derivatives_of_a_regression():
    b, weights = (normal(rng(i), 11, np.float64) for i in (1, 2))

    def loss(x, scale, noise):
        op = lf.KernelOperator(Gaussian(scale), x, noise=noise, chunk_size=4)
        return weights @ lf.lstsq(op, b, lf.LSMR(rtol=1e-13)).value

    def dense(x, scale, noise):
        K = dense_kernel(x, x, scale) + noise * np.eye(11)
        return weights @ np.linalg.solve(K, b)

    at = points(11), np.asarray(0.8), np.asarray(0.5)
    direction, want = check_derivatives(loss, dense, at)
    at, direction = (tuple(map(jnp.asarray, t)) for t in (at, direction))
    forward = jax.jit(lambda *args: jax.jvp(loss, *args)[1])(at, direction)
    np.testing.assert_allclose(forward, want, rtol=1e-6)


def test_derivatives_of_a_fit_between_two_sets():
    b, weights = normal(rng(1), 11, np.float64), normal(rng(2), 5, np.float64)

    def loss(x, y, scale):
        kernel = lambda p, q: jnp.exp(-jnp.sum((p - q) ** 2) / (2 * scale**2))
        op = lf.KernelOperator(kernel, x, y, chunk_size=4)
        return weights @ lf.lstsq(op, b, lf.LSMR(rtol=1e-13)).value

    def dense(x, y, scale):
        return weights @ (np.linalg.pinv(dense_kernel(x, y, scale)) @ b)

    check_derivatives(loss, dense, (points(11), points(5, 3), np.asarray(0.8)))


def test_second_derivative_of_a_product():
    x, v = points(9), jnp.asarray(normal(rng(1), 9, np.float64))

    def loss(scale):
        return v @ lf.KernelOperator(Gaussian(scale), x, chunk_size=4).mv(v)

    def first(scale):
        square = cdist(x, x, "sqeuclidean")
        return v @ (dense_kernel(x, x, scale) * square / scale**3) @ v

    got = jax.jit(jax.hessian(loss))(jnp.asarray(0.8))
    want = slope(first, (np.asarray(0.8),), (1.0,))
    np.testing.assert_allclose(got, want, rtol=1e-7)


N, CHUNK = 4096, 32
STORED = 8 * N * N


def kernel_product(x, scale, v):
    op = lf.KernelOperator(Gaussian(scale), x, noise=scale, chunk_size=CHUNK)
    return op.mv(v)


def kernel_transposed_product(x, scale, v):
    return lf.KernelOperator(Gaussian(scale), x, x, chunk_size=CHUNK).rmv(v)


def kernel_linearised(x, scale, v):
    return lf.KernelOperator(Gaussian(scale), x, chunk_size=CHUNK).linearise().mv(v)


def kernel_solve(x, scale, v):
    op = lf.KernelOperator(Gaussian(scale), x, noise=0.1, chunk_size=CHUNK)
    return lf.lstsq(op, v, throw=False).value


def features_solve(x, scale, v):
    op = lf.RandomFeatures(x, points(N, 1), lengthscale=scale, chunk_size=CHUNK)
    return lf.lstsq(op, v, damp=0.1, throw=False).value


@pytest.mark.parametrize("mode", ["value", "reverse", "forward"])
@pytest.mark.parametrize(
    "function",
    [
        kernel_product,
        kernel_transposed_product,
        kernel_linearised,
        kernel_solve,
        features_solve,
    ],
)
def test_the_matrix_is_never_stored(function, mode):
    """Compiled, not run: a few blocks of 1 MB, where the matrix would take 134 MB."""
    args = points(N), jnp.asarray(0.5), jnp.ones(N)

    def reverse(*args):
        return jax.value_and_grad(lambda *a: jnp.sum(function(*a)), (0, 1, 2))(*args)

    def forward(*args):
        return jax.jvp(function, args, args)

    run = {"value": function, "reverse": reverse, "forward": forward}[mode]
    compiled = jax.jit(run).lower(*map(jnp.asarray, args)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < STORED / 10


def test_kernel_errors():
    k, x = gaussian()[0], points(6)
    scalar = lambda p, q: jnp.sum(p * q)
    for arguments, options, text in (
        ((scalar, jnp.ones(())), {}, "leading axis"),
        ((scalar, {"a": x, "b": x[:3]}), {}, "leading axis"),
        ((scalar, x, x[:0]), {}, "`y` must hold points"),
        ((lambda p, q: p * q, x), {}, "must return a real or complex"),
        ((lambda p, q: jnp.sum(p > q), x), {}, "must return a real or complex"),
        ((k, x), {"chunk_size": 0}, "`chunk_size`"),
        ((k, x, x), {"noise": 0.1}, "a second set"),
        ((k, x), {"noise": jnp.ones(5)}, r"shape \(\) or \(6,\); got shape \(5,\)"),
    ):
        with pytest.raises(ValueError, match=text):
            lf.KernelOperator(*arguments, **options)


# Random features


def matern(smoothness):
    polynomial = {
        "matern12": lambda r: 1,
        "matern32": lambda r: 1 + 3**0.5 * r,
        "matern52": lambda r: 1 + 5**0.5 * r + 5 / 3 * r**2,
    }[smoothness]
    rate = {"matern12": 1, "matern32": 3, "matern52": 5}[smoothness] ** 0.5
    return lambda r: polynomial(r) * np.exp(-rate * r)


CLOSED_FORMS = {
    "rbf": lambda r: np.exp(-(r**2) / 2),
    **{name: matern(name) for name in ("matern12", "matern32", "matern52")},
}


@pytest.mark.float32
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_features_approximate_the_kernel(name, pairs, key):
    """Within five standard errors: entries of a feature's product vary by about 1."""
    count, x = 40_000, points(6)
    op = lf.RandomFeatures.sample(key, x, count, 0.7, name, amplitude=1.5, pairs=pairs)
    phi = np.asarray(op.as_matrix())
    assert phi.shape == (6, count)
    want = 1.5**2 * CLOSED_FORMS[name](cdist(x, x) / 0.7)
    assert np.max(np.abs(phi @ phi.T - want)) < 5 * 1.5**2 / count**0.5


@pytest.mark.float32
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_feature_matrix(chunk_size):
    x, scales = points(13), np.asarray([0.5, 2.0], dtype_of("real"))
    frequencies = points(7, 1)
    phases = rng(2).uniform(0, 6, 7).astype(dtype_of("real"))
    angles = (x / scales) @ frequencies.T
    options = {"lengthscale": scales, "amplitude": 3.0, "chunk_size": chunk_size}
    op = lf.RandomFeatures(x, frequencies, phases, **options)
    check_products(op, 3 * (2 / 7) ** 0.5 * np.cos(angles + phases))
    pair = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    op = lf.RandomFeatures(x, frequencies, **options)
    check_products(op, 3 * (1 / 7) ** 0.5 * pair)
    np.testing.assert_array_equal(op.at(x[3:5]).as_matrix().shape, (2, 14))


def test_derivatives_of_a_fit_by_features():
    frequencies, phases = points(5, 1), rng(2).uniform(0, 6, 5)
    b, weights = normal(rng(3), 11, np.float64), normal(rng(4), 5, np.float64)

    def loss(x, frequencies, phases, scale, amplitude):
        op = lf.RandomFeatures(
            x,
            frequencies,
            phases,
            lengthscale=scale,
            amplitude=amplitude,
            chunk_size=4,
        )
        return weights @ lf.lstsq(op, b, lf.LSMR(rtol=1e-13), damp=0.3).value

    def dense(x, frequencies, phases, scale, amplitude):
        phi = amplitude * (2 / 5) ** 0.5 * np.cos(x @ frequencies.T / scale + phases)
        return weights @ np.linalg.solve(phi.T @ phi + 0.09 * np.eye(5), phi.T @ b)

    at = points(11), frequencies, phases, np.asarray(0.8), np.asarray(1.2)
    check_derivatives(loss, dense, at)


def test_feature_errors(key):
    x, f = points(6), points(4, 1)
    for arguments, options, text in (
        ((x[:, 0], f), {}, r"x\[:, None\]"),
        ((x.astype(int), f), {}, "real floating-point"),
        ((x, f[:, :1]), {}, r"shape \(m, 2\)"),
        ((x, f, jnp.ones(3)), {}, r"`phases` must have shape \(4,\)"),
        ((x, f), {"lengthscale": jnp.ones(3)}, r"\(\) or \(2,\); got \(3,\)"),
        ((x, f), {"amplitude": jnp.ones(3)}, "`amplitude`"),
        ((x, f), {"chunk_size": -1}, "`chunk_size`"),
    ):
        with pytest.raises(ValueError, match=text):
            lf.RandomFeatures(*arguments, **options)
    with pytest.raises(ValueError, match=r"one of .*'matern32'.*; got 'cubic'"):
        lf.RandomFeatures.sample(key, x, 4, kernel="cubic")
    with pytest.raises(ValueError, match="even with `pairs`; got 3"):
        lf.RandomFeatures.sample(key, x, 3, pairs=True)


# Gauss–Newton


def model(x, data, power):
    """Nonlinear, from a dictionary to a pair."""
    return jnp.sin(data @ x["a"]) * x["b"], {"sum": jnp.sum(x["a"]) ** power}


def flat_model(flat, data):
    z, s = model({"a": flat[:3], "b": flat[3]}, data, 2)
    return jnp.append(z, s["sum"])


def loss_of(outputs):
    z, s = outputs
    return jnp.sum(jnp.exp(z)) + jnp.sum(z) ** 2 * (1 + s["sum"])


def gauss_newton_problem(kind="real"):
    dtype = dtype_of(kind)
    data, flat = (
        jnp.asarray(normal(rng(i), n, dtype)) for i, n in enumerate([(5, 3), 4])
    )
    J = np.asarray(jax.jacobian(flat_model, holomorphic=kind == "complex")(flat, data))
    return {"a": flat[:3], "b": flat[3]}, flat, data, J


class OnPairs(lf.AbstractOperator):
    """A matrix on the outputs of `model`."""

    matrix: jax.Array

    def mv(self, vector):
        out = self.matrix @ jnp.append(vector[0], vector[1]["sum"])
        return out[:5], {"sum": out[5]}

    def in_structure(self):
        struct = lambda *shape: jax.ShapeDtypeStruct(shape, self.matrix.dtype)
        return struct(5), {"sum": struct()}


@pytest.mark.float32
@kinds
@pytest.mark.parametrize("hessian", ["identity", "operator", "loss"])
def test_gauss_newton_matrix(hessian, kind):
    if (hessian, kind) == ("loss", "complex"):
        pytest.skip("a loss of complex outputs has no complex Hessian")
    at, x, data, J = gauss_newton_problem(kind)
    options, H, damp = {}, np.eye(6), None
    if hessian == "operator":
        H = normal(rng(3), (6, 6), dtype_of(kind))
        options["hessian"] = OnPairs(jnp.asarray(H))
    elif hessian == "loss":
        options["loss"], damp = loss_of, 0.5
        H = jax.hessian(lambda z: loss_of((z[:5], {"sum": z[5]})))(flat_model(x, data))
        H = np.asarray(H)
    op = lf.GaussNewtonOperator(model, at, data, 2, damp=damp, **options)
    want = J.conj().T @ H @ J + (damp or 0) ** 2 * np.eye(4)
    every = eqx.filter_jit(
        lambda op: [
            (op.as_matrix(), op.T.as_matrix(), op.H.as_matrix())
            for op in (op, op.linearise())
        ]
    )
    for got, transposed, adjoint in every(op):
        assert got.dtype == dtype_of(kind)
        assert relative_error(got, want) < 200 * EPS
        assert relative_error(transposed, want.T) < 200 * EPS
        assert relative_error(adjoint, want.conj().T) < 200 * EPS
    assert lx.is_symmetric(op) == (hessian != "operator" and kind == "real")
    assert lx.is_positive_semidefinite(op) == (hessian == "identity")


def test_gauss_newton_tags():
    x, matrix = jnp.ones(3), jnp.eye(3)
    for tag in (lx.symmetric_tag, lx.positive_semidefinite_tag):
        H = lf.MatrixOperator(matrix, frozenset([tag]))
        op = lf.GaussNewtonOperator(jnp.sin, x, hessian=H)
        assert lx.is_symmetric(op)
        assert lx.is_positive_semidefinite(op) == (tag != lx.symmetric_tag)
    assert not lx.is_symmetric(lf.GaussNewtonOperator(jnp.sin, x, hessian=matrix))
    op = lf.GaussNewtonOperator(jnp.sin, x, loss=jnp.sum, convex=True)
    assert lx.is_positive_semidefinite(op)
    assert lx.is_positive_semidefinite(op.linearise())


def test_derivatives_of_a_gauss_newton_step():
    _, x, data, _ = gauss_newton_problem()
    b, weights = normal(rng(5), 4, np.float64), normal(rng(6), 3, np.float64)
    target = rng(7).standard_normal(5)

    def loss(x, data, target, damp):
        op = lf.GaussNewtonOperator(
            model,
            {"a": x[:3], "b": x[3]},
            data,
            2,
            loss=lambda out: loss_of((out[0] - target, out[1])),
            damp=damp,
        )
        rhs = {"a": b[:3], "b": b[3]}
        return weights @ lf.lstsq(op, rhs, lf.LSMR(rtol=1e-14)).value["a"]

    jacobian = jax.jit(jax.jacobian(flat_model))
    hessian = jax.jit(jax.hessian(lambda z: loss_of((z[:5], {"sum": z[5]}))))

    def dense(x, data, target, damp):
        J = np.asarray(jacobian(x, data))
        H = np.asarray(hessian(flat_model(x, data) - np.append(target, 0)))
        return weights @ np.linalg.solve(J.T @ H @ J + damp**2 * np.eye(4), b)[:3]

    check_derivatives(loss, dense, (np.asarray(x), np.asarray(data), target, 0.7))


def test_gauss_newton_is_linearised_once_a_solve():
    evaluations = []

    def fn(x):
        jax.debug.callback(lambda: evaluations.append(1))
        return jnp.sin(x) * jnp.arange(1.0, 9.0)

    counts = []
    for max_steps in (1, 5):
        evaluations.clear()
        op = lf.GaussNewtonOperator(
            fn, jnp.linspace(0.1, 0.8, 8), loss=lambda z: jnp.sum(z**4)
        )
        solver = lf.LSMR(max_steps=max_steps)
        jax.block_until_ready(lf.lstsq(op, jnp.ones(8), solver, throw=False).value)
        jax.effects_barrier()
        counts.append(len(evaluations))
    assert counts[0] == counts[1] <= 4


def test_gauss_newton_errors():
    x = jnp.ones(3)
    for options, text in (
        ({"hessian": jnp.eye(3), "loss": jnp.sum}, "give one of them"),
        ({"hessian": jnp.eye(2)}, "must map outputs of `fn` to themselves"),
        ({"loss": jnp.sin}, "one real scalar"),
        ({"damp": jnp.ones(2)}, r"must be a scalar; got shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=text):
            lf.GaussNewtonOperator(jnp.sin, x, **options)
    with pytest.raises(ValueError, match="real outputs"):
        lf.GaussNewtonOperator(
            lambda x: jax.lax.complex(x, x), x, loss=lambda z: jnp.sum(z.real)
        )
    with pytest.raises(TypeError, match="floating-point"):
        lf.GaussNewtonOperator(jnp.sin, jnp.arange(3))
