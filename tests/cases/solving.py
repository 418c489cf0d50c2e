"""Operators that solve: pseudo-inverses and projectors."""

import jax.numpy as jnp

import lsqflow as lf

from ..helpers import matrix, rng
from .structure import tree_struct


def dense(dtype, rank=None, shape=(4, 6)):
    return jnp.asarray(matrix(rng(), shape, rank=rank, dtype=dtype))


def ravelled(dtype):
    """Six of the ten entries of a pytree, mixed by a matrix of rank 3."""
    size = 10
    mix = jnp.asarray(matrix(rng(1), (6, size), rank=3, dtype=dtype))
    return lf.MatrixOperator(mix) @ lf.Ravel(tree_struct(dtype))


CASES = {
    "pseudo-inverse": lambda t: lf.pinv(dense(t), lf.LSMR()),
    "pseudo-inverse, deficient": lambda t: lf.pinv(ravelled(t), lf.LSMR()),
    "null space": lambda t: lf.NullSpaceProjector(dense(t)),
    "null space, redundant rows": lambda t: lf.NullSpaceProjector(ravelled(t)),
    "range": lambda t: lf.RangeProjector(dense(t, shape=(6, 4))),
    "range, redundant columns": lambda t: lf.RangeProjector(ravelled(t).T),
}
