"""Problems with known answers, built with NumPy alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lsqflow as lf

X64 = bool(jax.config.jax_enable_x64)
SHAPES = {"tall": (12, 7), "wide": (7, 12), "square": (9, 9)}


def rng(seed=0):
    """The one source of randomness of the tests."""
    return np.random.default_rng(seed)


def dtype_of(kind):
    """The real or complex dtype of the precision under test."""
    name = {"real": ("float32", "float64"), "complex": ("complex64", "complex128")}
    return np.dtype(name[kind][X64])


def normal(generator, shape, dtype):
    """Standard normal entries, complex if the dtype is."""
    x = generator.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = x + 1j * generator.standard_normal(shape)
    return x.astype(dtype)


def matrix(generator, shape, *, rank=None, condition=3.0, dtype=np.float64):
    """Singular values from 1 to 1/condition, and zeros beyond the rank."""
    m, n = shape
    rank = min(shape) if rank is None else rank
    u, _ = np.linalg.qr(normal(generator, (m, rank), dtype))
    v, _ = np.linalg.qr(normal(generator, (n, rank), dtype))
    s = np.geomspace(1, 1 / condition, rank)
    return ((u * s) @ v.conj().T).astype(dtype)


class Diagonal(lf.AbstractOperator):
    """A user's operator: nothing but `mv` and `in_structure`."""

    entries: jax.Array

    def mv(self, vector):
        return self.entries * vector

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape, self.entries.dtype)


def relative_error(got, want):
    """‖got − want‖ / ‖want‖ over pytrees, in float64."""
    got, want = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (got, want)
    )
    return np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-300)


def count_traces(function):
    """The function, and a list that grows at each trace."""
    traces = []

    def counted(*args):
        traces.append(jnp.shape(args[0]))
        return function(*args)

    return counted, traces


def lenient(optimizer):
    """An Optax optimiser under JAX's ordinary promotion, which it is written for."""

    def relaxed(function):
        def call(*args, **kwargs):
            with (
                jax.numpy_dtype_promotion("standard"),
                jax.numpy_rank_promotion("allow"),
            ):
                return function(*args, **kwargs)

        return call

    optimizer = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(*map(relaxed, optimizer))
