"""Constraints that ask for symmetries, against groups written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsqflow as lf

from .helpers import X64, dtype_of, normal, relative_error, rng

TOLERANCE = 1e-12 if X64 else 1e-5
TURN = lambda k, images: jnp.rot90(images, k, axes=(1, 2))


def images(dtype):
    return normal(rng(), (5, 4, 4), dtype)


def linear(params, x):
    """A number for each image: neither invariant nor equivariant."""
    return jnp.sum(params["w"][None] * x, (1, 2))


def smoothing(params, x):
    """Equivariant under turns, whatever its two parameters."""
    mean = jnp.mean(x, (1, 2), keepdims=True)
    return params["a"] * x + params["b"] * jnp.broadcast_to(mean, x.shape)


def in_plane(params, x):
    """A linear map of the plane."""
    return x @ params.T


def matrices(dtype, k=3):
    """Turns of the plane by multiples of 2π / k, without the identity."""
    t = 2 * np.pi * np.arange(1, k) / k
    c, s = np.cos(t), np.sin(t)
    return np.moveaxis(np.array([[c, -s], [s, c]]), 2, 0).astype(dtype)


MOVE = lambda g, x: x @ g.T
GENERATOR = [[[0.0, -1.0], [1.0, 0.0]]]


@pytest.mark.float32
def test_quarter_turns_against_numpy(key):
    dtype = dtype_of("real")
    x = images(dtype)
    params = {"w": jnp.asarray(normal(rng(1), (4, 4), dtype)), "b": None}
    spec = lf.Equivariance(linear, range(1, 4), TURN)

    rows = np.stack([x - np.rot90(x, k, (1, 2)) for k in (1, 2, 3)]) / np.sqrt(15)
    want = np.einsum("gnij,ij->gn", rows, params["w"])
    residual, violation = jax.jit(
        lambda p: (spec.residual(p, x), spec.violation(p, x))
    )(params)
    assert residual.dtype == dtype
    assert relative_error(residual, want) < TOLERANCE
    rms = np.sqrt(np.mean(np.einsum("nij,ij->n", x, params["w"]) ** 2))
    assert abs(violation * rms - np.linalg.norm(want)) < TOLERANCE * rms

    jacobian = spec.jacobian(params, x)
    J = np.asarray(jax.jit(lambda p: spec.jacobian(p, x).as_matrix())(params))
    assert relative_error(J, rows.reshape(15, 16)) < TOLERANCE
    assert lf.check_adjoint(jacobian, key)
    # Training projects with it: what is left is the mean over the group.
    w = np.asarray(params["w"])
    invariant = w - (np.linalg.pinv(J, rcond=1e-4) @ J @ w.ravel()).reshape(4, 4)
    mean = np.mean([np.rot90(w, k) for k in range(4)], axis=0)
    assert relative_error(invariant, mean) < 10 * TOLERANCE


@pytest.mark.float32
def test_models_with_the_symmetry_and_without():
    dtype = dtype_of("real")
    x = images(dtype)
    params = {"a": jnp.asarray(2, dtype), "b": jnp.asarray(3, dtype)}
    equivariant = lf.Equivariance(smoothing, range(4), TURN, TURN)
    assert equivariant.residual(params, x).shape == (4, *x.shape)
    assert equivariant.violation(params, x) < TOLERANCE
    assert lf.Equivariance(smoothing, [1], TURN).violation(params, x) > 0.5

    outer = {"net": params, "w": jnp.ones(3, dtype)}
    part = equivariant.on(lambda p: p["net"])
    assert part.violation(outer, x) == equivariant.violation(params, x)
    gradient = jax.jit(lambda p, u: part.jacobian(p, x).rmv(u))
    residual = jnp.asarray(normal(rng(2), (4, *x.shape), dtype))
    got = gradient(outer, residual)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, outer)
    # Each of the parameters only ever does what the symmetry allows.
    assert max(abs(got["net"]["a"]), abs(got["net"]["b"])) < TOLERANCE
    assert not np.any(got["w"])


@pytest.mark.float32
def test_elements_one_by_one_stacked_and_drawn(key):
    dtype = dtype_of("real")
    x, W = normal(rng(), (6, 2), dtype), jnp.asarray(normal(rng(1), (2, 2), dtype))
    group = matrices(dtype)
    want = np.stack([x @ (g @ W - W @ g).T for g in group]) / np.sqrt(24)
    specs = {
        "sequence": (lf.Equivariance(in_plane, list(group), MOVE, MOVE), (x,)),
        "stack": (lf.Equivariance(in_plane, group, MOVE, MOVE), (x,)),
        "given": (lf.Equivariance(in_plane, None, MOVE, MOVE), (x, group)),
    }
    for spec, args in specs.values():
        assert relative_error(spec.residual(W, *args), want) < TOLERANCE

    def rotate(angle, x):
        c, s = jnp.cos(angle), jnp.sin(angle)
        return jnp.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], 1)

    def sampler(key):
        return x, jax.random.uniform(key, (2,), dtype, maxval=6)

    drawn = lf.Equivariance(in_plane, None, rotate, rotate)
    spec = lf.Sampled(drawn, sampler, key)
    commutes = jnp.asarray([[1, -2], [2, 1]], dtype)
    violation = jax.jit(lambda W, step: spec.at(step).violation(W))
    assert violation(commutes, 3) < TOLERANCE
    assert violation(W, 3) > 1e-2
    assert violation(W, 3) != violation(W, 4)


@pytest.mark.float32
def test_generators_against_commutators(key):
    dtype = dtype_of("real")
    x, W = normal(rng(), (6, 2), dtype), jnp.asarray(normal(rng(1), (2, 2), dtype))
    G = np.array(GENERATOR[0], dtype)
    spec = lf.InfinitesimalEquivariance(in_plane, G[None], MOVE, MOVE)
    want = (x @ (G @ W - W @ G).T)[None] / np.sqrt(12)
    residual, violation = jax.jit(
        lambda W: (spec.residual(W, x), spec.violation(W, x))
    )(W)
    assert relative_error(residual, want) < TOLERANCE
    rms = np.sqrt(np.mean((x @ W.T) ** 2))
    assert abs(violation * rms - np.linalg.norm(want)) < 10 * TOLERANCE
    jacobian = spec.jacobian(W, x)
    assert lf.check_adjoint(jacobian, key)
    # The matrices that commute with rotations, and the nearest of them.
    a, b = (W[0, 0] + W[1, 1]) / 2, (W[1, 0] - W[0, 1]) / 2
    J = np.asarray(jax.jit(lambda W: spec.jacobian(W, x).as_matrix())(W))
    nearest = W.ravel() - np.linalg.pinv(J, rcond=1e-4) @ J @ W.ravel()
    assert relative_error(nearest, np.array([a, -b, b, a])) < 10 * TOLERANCE

    # By an angle, and invariant: xᵀ W x changes at the rate xᵀ (W G + Gᵀ W) x.
    def rotate(angle, x):
        c, s = jnp.cos(angle), jnp.sin(angle)
        return x @ jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])

    form = lambda W, x: jnp.sum(x * (x @ W.T), axis=1)
    one = np.ones(1, dtype)
    spec = lf.InfinitesimalEquivariance(form, one, rotate, identity=0)
    rate = np.einsum("ni,ij,nj->n", x, W @ G + G.T @ W, x)
    assert relative_error(spec.residual(W, x)[0], -rate / np.sqrt(6)) < TOLERANCE


def test_derivatives_and_batches_of_the_residual():
    """What the residual gives is a differentiable function like any other."""
    x, W = normal(rng(), (6, 2), np.float64), normal(rng(1), (3, 2, 2), np.float64)
    model = lambda W, x: jnp.tanh(x @ W.T)
    specs = (
        lf.Equivariance(model, matrices(np.float64), MOVE, MOVE),
        lf.InfinitesimalEquivariance(model, GENERATOR, MOVE, MOVE),
        lf.Periodic(model, [1.0, 0.0]),
    )
    direction = jnp.asarray(normal(rng(2), (2, 2), np.float64))

    @jax.jit
    def all_of(W):
        return tuple(s.residual(W, x) for s in specs)

    @jax.jit
    def slopes(W):
        forward = tuple(s.jacobian(W, x).mv(direction) for s in specs)
        size = lambda W: sum(jnp.sum(r**2) for r in all_of(W))
        return forward, jax.grad(size)(W), jax.jvp(size, (W,), (direction,))[1]

    forward, gradient, directional = slopes(W[0])
    h = 1e-6
    up, down = all_of(W[0] + h * direction), all_of(W[0] - h * direction)
    for got, a, b in zip(forward, up, down, strict=True):
        assert relative_error(got, (a - b) / (2 * h)) < 1e-7
    assert abs(np.sum(gradient * direction) - directional) < 1e-12
    batch = jax.jit(jax.vmap(all_of))(W)
    for i, got in enumerate(jax.tree.map(lambda r: r[2], batch)):
        assert relative_error(got, all_of(W[2])[i]) < 1e-12


@pytest.mark.float32
def test_periodic_against_a_wave(key):
    dtype = dtype_of("real")
    x = np.linspace(-1, 2, 7).astype(dtype)
    wave = lambda p, x: p["a"] * jnp.sin(p["k"] * x)
    spec = lf.Periodic(wave, 2.0)
    params = {"a": jnp.asarray(1.5, dtype), "k": jnp.asarray(2.0, dtype)}
    jumps = 1.5 * (np.sin(2 * (x + 2)) - np.sin(2 * x))
    assert relative_error(spec.residual(params, x), jumps / np.sqrt(7)) < 10 * TOLERANCE
    assert abs(spec.violation(params, x) - np.max(np.abs(jumps))) < 10 * TOLERANCE
    assert lf.check_adjoint(spec.jacobian(params, x), key)
    fits = {**params, "k": jnp.asarray(3 * np.pi, dtype)}
    stored = lf.Periodic(wave, 2.0, points=x)
    assert stored.violation(fits) < 100 * TOLERANCE
    assert stored.violation(params) == spec.violation(params, x)
    draw = lambda key: (jax.random.uniform(key, (5,), dtype),)
    assert lf.Sampled(spec, draw, key).at(1).violation(fits) < 100 * TOLERANCE


def test_periods_in_several_directions():
    x = normal(rng(), (5, 2), np.float64)
    wave = lambda k, x: jnp.sin(x @ k)
    k = jnp.asarray([2 * np.pi, np.pi])
    # Periodic in the first direction with period 1, in the second with 2.
    assert lf.Periodic(wave, np.diag([1.0, 2.0])).violation(k, x) < 1e-13
    got = lf.Periodic(wave, np.eye(2)).residual(k, x)
    want = np.stack([np.sin((x + e) @ k) - np.sin(x @ k) for e in np.eye(2)])
    assert relative_error(got, want / np.sqrt(10)) < 1e-12
    assert lf.Periodic(wave, [0.5, 1.0]).violation(k, x) < 1e-13
    assert lf.Periodic(wave, [0.0, 1.0]).violation(k, x) > 0.1


BAD = {
    "points": (lambda x: lf.Periodic(in_plane, 1.0).residual(x), TypeError, "Sampled"),
    "elements": (
        lambda x: lf.Equivariance(in_plane, None, MOVE).residual(x, x),
        TypeError,
        "elements of the group",
    ),
    "empty": (lambda x: lf.Equivariance(in_plane, (), MOVE), ValueError, "one at"),
    "scalar": (lambda x: lf.Equivariance(in_plane, 3.0, MOVE), ValueError, "one at"),
    "moved": (
        lambda x: lf.Equivariance(in_plane, [1], lambda g, x: x[:1]).residual(x, x),
        ValueError,
        r"f64\[1,2,2\]; it returns f64\[1,1,2\]",
    ),
    "generators": (
        lambda x: lf.InfinitesimalEquivariance(in_plane, [1.0], MOVE),
        ValueError,
        "identity",
    ),
    "tangent": (
        lambda x: lf.InfinitesimalEquivariance(in_plane, x, MOVE, identity=0),
        ValueError,
        r"\(2, 2\)",
    ),
    "integers": (
        lambda x: lf.Periodic(in_plane, 1.0).residual(x, np.arange(4)),
        TypeError,
        "floating-point",
    ),
    "zero": (lambda x: lf.Periodic(in_plane, 0.0), ValueError, "not zero"),
    "shift": (
        lambda x: lf.Periodic(in_plane, np.ones(3)).residual(x, x),
        ValueError,
        r"\(\.\.\., 3\); got \(2, 2\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make(jnp.eye(2))
