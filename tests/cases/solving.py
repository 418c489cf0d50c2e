"""Operators that solve: pseudo-inverses and projectors."""

import jax.numpy as jnp

import lsqflow as lf

from ..helpers import matrix, normal, rng
from .structure import tree_struct


def dense(dtype, shape=(4, 6)):
    return jnp.asarray(matrix(rng(), shape, dtype=dtype))


def deficient(dtype):
    """Of a pytree, and of rank 2 whatever its parameters: the rank must not change."""
    left, right = (
        jnp.asarray(normal(rng(i), (n, 2), dtype)) for i, n in ((1, 6), (2, 10))
    )
    return lf.LowRank(left, right) @ lf.Ravel(tree_struct(dtype))


CASES = {
    "pseudo-inverse": lambda t: lf.pinv(dense(t), lf.LSMR()),
    "pseudo-inverse, deficient": lambda t: lf.pinv(deficient(t), lf.LSMR()),
    "null space": lambda t: lf.NullSpaceProjector(dense(t)),
    "null space, redundant rows": lambda t: lf.NullSpaceProjector(deficient(t)),
    "range": lambda t: lf.RangeProjector(dense(t, shape=(6, 4))),
    "range, redundant columns": lambda t: lf.RangeProjector(deficient(t).T),
}
