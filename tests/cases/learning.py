"""Small operators of learning: functions and Jacobians, kernels and features."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import lsqflow as lf


class Gaussian(eqx.Module):
    """With a wave, a Hermitian kernel; without, a real one."""

    lengthscale: jax.Array
    wave: jax.Array | None = None

    def __call__(self, x, y):
        gap = (x - y) / self.lengthscale
        value = jnp.exp(-jnp.sum(gap**2) / 2)
        if self.wave is None:
            return value
        angle = jnp.sum(self.wave * (x - y))
        return jax.lax.complex(value * jnp.cos(angle), value * jnp.sin(angle))


def _normal(seed, shape, dtype):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * generator.standard_normal(shape)
    return jnp.asarray(x.astype(dtype))


def _is_complex(dtype):
    return np.issubdtype(dtype, np.complexfloating)


def _real(dtype):
    return np.zeros((), dtype).real.dtype


def _require_real(dtype):
    if _is_complex(dtype):
        raise NotImplementedError


def _gaussian(dtype):
    real = _real(dtype)
    wave = _normal(9, 2, real) if _is_complex(dtype) else None
    return Gaussian(jnp.asarray(0.8, real), wave)


def function(dtype):
    A = _normal(0, (6, 5), dtype)
    example = {"a": jnp.zeros(3, dtype), "b": jnp.zeros(2, dtype)}
    return lf.FunctionOperator(
        lambda x: (A @ jnp.concatenate([x["a"], x["b"]]), x["a"] * A[0, :3]), example
    )


def _model(x, data):
    """Holomorphic, so that its Jacobian is complex linear."""
    return jnp.sin(data @ x["a"]) + x["b"] ** 2 * data[:, 0] ** 2


def _point(dtype):
    at = {"a": _normal(1, 3, dtype) / 4, "b": jnp.asarray(0.5, dtype)}
    return at, _normal(3, (6, 3), dtype)


def jacobian(dtype):
    at, data = _point(dtype)
    return lf.JacobianOperator(_model, at, data)


def gauss_newton(dtype):
    at, data = _point(dtype)
    return lf.GaussNewtonOperator(_model, at, data, damp=0.5)


def gauss_newton_with_hessian(dtype):
    at, data = _point(dtype)
    H = _normal(4, (6, 6), dtype) / 6 + jnp.eye(6, dtype=dtype)
    return lf.GaussNewtonOperator(_model, at, data, hessian=H)


def gauss_newton_with_loss(dtype):
    _require_real(dtype)
    at, data = _point(dtype)
    target = _normal(4, 6, dtype)

    def loss(out):
        return jax.nn.logsumexp(out) + jnp.sum((out - target) ** 2)

    return lf.GaussNewtonOperator(_model, at, data, loss=loss, convex=True, damp=0.5)


def kernel(dtype):
    real = _real(dtype)
    x, y = _normal(5, (11, 2), real), _normal(6, (7, 2), real)
    return lf.KernelOperator(_gaussian(dtype), x, y, chunk_size=4)


def kernel_with_noise(dtype):
    x = _normal(5, (9, 2), _real(dtype))
    noise = jnp.linspace(0.1, 0.3, 9, dtype=_real(dtype))
    return lf.KernelOperator(_gaussian(dtype), x, noise=noise, chunk_size=4)


def kernel_function(dtype):
    gaussian = _gaussian(dtype)
    x = {"place": _normal(5, (8, 2), _real(dtype)), "label": jnp.arange(8) % 2}

    def product(p, q):
        same = (p["label"] == q["label"]).astype(_real(dtype))
        value = gaussian(p["place"], q["place"])
        return value * (1 + same).astype(value.dtype)

    return lf.KernelOperator(product, x, noise=0.5, positive_semidefinite=True)


def features(dtype):
    _require_real(dtype)
    x = _normal(5, (9, 2), dtype)
    key = jax.random.key(0)
    return lf.RandomFeatures.sample(key, x, 6, 0.5, amplitude=2.0, chunk_size=4)


def features_in_pairs(dtype):
    _require_real(dtype)
    x = _normal(5, (5, 2), dtype)
    scales = jnp.asarray([0.5, 2.0], dtype)
    key = jax.random.key(1)
    return lf.RandomFeatures.sample(key, x, 8, scales, "matern32", pairs=True)


CASES: dict[str, Callable[[np.dtype], lf.AbstractOperator]] = {
    make.__name__: make
    for make in (
        function,
        jacobian,
        gauss_newton,
        gauss_newton_with_hessian,
        gauss_newton_with_loss,
        kernel,
        kernel_with_noise,
        kernel_function,
        features,
        features_in_pairs,
    )
}
