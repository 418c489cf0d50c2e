"""Algebra, blocks, Kronecker products, low rank, selections, reshapes."""

import jax
import jax.numpy as jnp
import numpy as np

import lsqflow as lf

from ..helpers import matrix, normal, rng


def array(shape, dtype, seed=0):
    return jnp.asarray(normal(rng(seed), shape, dtype))


def dense(shape, dtype, seed=0):
    return lf.MatrixOperator(jnp.asarray(matrix(rng(seed), shape, dtype=dtype)))


def struct(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)


def tree_struct(dtype):
    return {"a": struct((2, 3), dtype), "b": [struct((4,), dtype)]}


def only_complex(dtype):
    if not np.issubdtype(dtype, np.complexfloating):
        raise NotImplementedError
    return dtype


CASES = {
    "matrix": lambda t: dense((5, 4), t),
    "transposed": lambda t: dense((5, 4), t).T,
    "sum": lambda t: dense((5, 4), t) + 2.5 * dense((5, 4), t, 1),
    "composed": lambda t: dense((3, 5), t) @ dense((5, 4), t, 1) / 3,
    "complex multiple": lambda t: 2j * dense((5, 4), only_complex(t)),
    "identity": lambda t: lf.Identity(tree_struct(t)),
    "zero": lambda t: lf.Zero(tree_struct(t), struct((3,), t)),
    "diagonal": lambda t: lf.Diagonal({"a": array((2, 3), t), "b": array(4, t, 1)}),
    "vstack": lambda t: lf.VStack({"a": dense((5, 4), t), "b": array((3, 4), t)}),
    "hstack": lambda t: lf.HStack([dense((5, 4), t), array((5, 2), t)]),
    "block": lambda t: lf.Block(
        [[dense((5, 4), t), None], [array((3, 4), t), array((3, 2), t, 1)]]
    ),
    "block diagonal": lambda t: lf.BlockDiagonal(
        (dense((5, 4), t), lf.Identity(tree_struct(t)))
    ),
    "kronecker": lambda t: lf.Kronecker(dense((3, 2), t), dense((2, 4), t, 1)),
    "kronecker of three": lambda t: lf.Kronecker(
        dense((2, 3), t), lf.Identity(struct((2, 2), t)), dense((3, 2), t, 1).T
    ),
    "kronecker sum": lambda t: lf.KroneckerSum(dense((3, 3), t), dense((4, 4), t, 1)),
    "low rank": lambda t: lf.LowRank(array((6, 2), t), array((5, 2), t, 1)),
    "low rank, symmetric": lambda t: lf.LowRank(array((6, 2), t)),
    "diagonal plus low rank": lambda t: lf.DiagonalPlusLowRank(
        array(6, t, 2) + 5, array((6, 2), t), array((6, 2), t, 1)
    ),
    "mask": lambda t: lf.Mask({"a": jnp.asarray([True, False, True])}, t),
    "selection": lambda t: lf.Selection([3, 0, -1, 3], struct((2, 5), t), axis=1),
    "leaves": lambda t: lf.LeafSelection({"a": False, "b": True}, tree_struct(t)),
    "permutation": lambda t: lf.Permutation([2, 0, 3, 1], struct((2, 4), t), axis=-1),
    "reshape": lambda t: lf.Reshape(struct((2, 6), t), (3, 4)),
    "ravel": lambda t: lf.Ravel(tree_struct(t)),
    "real": lambda t: lf.Real(tree_struct(only_complex(t))),
    "imaginary": lambda t: lf.Imag(tree_struct(only_complex(t))),
    "function": lambda t: lf.FunctionOperator(
        lambda x, m=array((5, 6), t): m @ x["a"].ravel(), {"a": struct((2, 3), t)}
    ),
    "jacobian": lambda t: lf.JacobianOperator(
        lambda x, m: m @ (x["a"] ** 2), {"a": array(4, t)}, array((5, 4), t, 1)
    ),
}
