"""What an entry of the registry is, and what entries are made of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import lsqflow as lf

from .. import helpers


@dataclasses.dataclass(frozen=True)
class Entry:
    """An operator, and what a solver may want to know of it."""

    make: Callable[[int, Any], Any]
    definite: bool = False  # says of itself that it is (semi-)definite
    moves_rank: bool = False  # a change of its leaves changes its rank
    half: bool = False  # whatever dtype was asked for
    by_identity: bool = False  # lineax compares its function by identity
    slow: bool = False  # a sibling of another entry


def with_one_function(entry):
    """The entry with new arrays in one and the same function."""
    statics = {}

    def make(seed, dtype):
        arrays, static = eqx.partition(entry.make(seed, dtype), eqx.is_array)
        static = statics.setdefault(dtype, static)
        return eqx.combine(arrays, static)

    return dataclasses.replace(entry, make=make)


def array(seed, shape, dtype):
    return jnp.asarray(helpers.normal(helpers.rng(seed), shape, dtype))


def matrix(seed, shape, dtype, rank=None):
    return jnp.asarray(
        helpers.matrix(helpers.rng(seed), shape, rank=rank, dtype=np.dtype(dtype))
    )


def positive(seed, size, dtype):
    A = helpers.matrix(helpers.rng(seed), (size, size), dtype=np.dtype(dtype))
    return jnp.asarray((A @ A.conj().T + 0.5 * np.eye(size)).astype(dtype))


def half(seed, shape, dtype):
    return matrix(seed, shape, np.float32).astype(dtype)


def dense(seed, shape, dtype):
    return lf.MatrixOperator(matrix(seed, shape, dtype))


def struct(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)


def complex_of(dtype):
    return np.result_type(dtype, np.complex64)


def kernel2d(seed, dtype):
    """A blur that can be undone: mostly its centre."""
    g = helpers.rng(seed)
    kernel = g.uniform(0.02, 0.08, (3, 3))
    kernel[1, 1] = 1
    return jnp.asarray(kernel.astype(dtype))
