"""The operators: each family, users' own, and lineax's, all small and well conditioned.

Another seed gives an entry other values and the same program: closures are defined
anew, and equal.
"""

import dataclasses

import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.experimental import sparse as jsparse

from . import own
from .entry import Entry, array, half, kernel2d, matrix, positive, struct
from .families import FAMILIES, network, sparse_dense, tanh_layer


def _lineax_function(seed, dtype):
    A = matrix(seed, (7, 5), dtype)
    return lx.FunctionLinearOperator(lambda x: A @ x, struct((5,), dtype))


def _mirror(x):
    """It closes over nothing, and so stays a Python function in lineax's operator."""
    return 2 * x + x[::-1]


def _lineax_jacobian(seed, dtype):
    A = matrix(seed, (7, 5), dtype)
    return lx.JacobianLinearOperator(tanh_layer, array(seed, 5, dtype) / 4, A)


def _lineax_network(seed, dtype):
    model, A = network(seed, dtype, (4, 4)), matrix(seed, (6, 4), dtype)
    fn = lambda x, args: args[1] @ (x + args[0](x) / 8)
    return lx.JacobianLinearOperator(fn, array(seed + 1, 4, dtype), (model, A))


def _lineax_pytree(seed, dtype):
    A = matrix(seed, (7, 4), dtype)
    leaves = [{"a": A[:3, :2], "b": A[:3, 2:]}, {"a": A[3:, :2], "b": A[3:, 2:]}]
    return lx.PyTreeLinearOperator(leaves, [struct((3,), dtype), struct((4,), dtype)])


def _lineax_composed(seed, dtype):
    scale = jnp.linspace(1, 2, 7).astype(dtype)
    return lx.DiagonalLinearOperator(scale) @ _lineax_function(seed, dtype)


def _lineax_added(seed, dtype):
    return (
        lx.MatrixLinearOperator(matrix(seed, (7, 5), dtype))
        + _lineax_function(seed + 1, dtype) / 2
    )


def _lineax_tridiagonal(seed, dtype):
    off = array(seed, 5, dtype) / 4
    diagonal = 3 + array(seed + 1, 6, dtype) / 8
    return lx.TridiagonalLinearOperator(diagonal, off, -off)


def _lineax_triangular(seed, dtype):
    A = jnp.tril(matrix(seed, (5, 5), dtype)) + jnp.eye(5, dtype=dtype)
    return lx.MatrixLinearOperator(A, lx.lower_triangular_tag)


LINEAX = {
    "lineax, matrix": Entry(lambda s, t: lx.MatrixLinearOperator(matrix(s, (7, 5), t))),
    "lineax, positive": Entry(
        lambda s, t: lx.MatrixLinearOperator(
            positive(s, 6, t), lx.positive_semidefinite_tag
        ),
        definite=True,
    ),
    "lineax, triangular": Entry(_lineax_triangular),
    "lineax, tridiagonal": Entry(_lineax_tridiagonal),
    "lineax, diagonal": Entry(
        lambda s, t: lx.DiagonalLinearOperator(3 + matrix(s, (6, 6), t)[0])
    ),
    "lineax, identity": Entry(
        lambda _, t: lx.IdentityLinearOperator(struct((4,), t)),
        definite=True,
    ),
    "lineax, function": Entry(_lineax_function, by_identity=True),
    "lineax, plain function": Entry(
        lambda _, t: lx.FunctionLinearOperator(
            _mirror, struct((6,), t), lx.positive_semidefinite_tag
        ),
        definite=True,
    ),
    "lineax, jacobian": Entry(_lineax_jacobian),
    "lineax, jacobian of a network": Entry(_lineax_network, by_identity=True),
    "lineax, pytree": Entry(_lineax_pytree),
    "lineax, tagged": Entry(
        lambda s, t: lx.TaggedLinearOperator(
            lx.MatrixLinearOperator(positive(s, 6, t)), lx.positive_semidefinite_tag
        ),
        definite=True,
    ),
    "lineax, tagged blur": Entry(
        lambda s, t: lx.TaggedLinearOperator(own.Blur(kernel2d(s, t), (3, 4)), "mine")
    ),
    "lineax, composed": Entry(_lineax_composed, by_identity=True),
    "lineax, added": Entry(_lineax_added, by_identity=True),
    "lineax, negated": Entry(lambda s, t: -_lineax_function(s, t), by_identity=True),
}

ARRAYS = {
    "array": Entry(lambda s, t: matrix(s, (7, 5), t)),
    "array of NumPy": Entry(lambda s, t: np.asarray(matrix(s, (5, 7), t))),
    "array, bfloat16": Entry(lambda s, _: half(s, (6, 4), jnp.bfloat16), half=True),
    "array, float16": Entry(lambda s, _: half(s, (4, 6), jnp.float16), half=True),
    "sparse of SciPy": Entry(lambda s, t: scipy.sparse.csr_array(sparse_dense(s, t))),
    "sparse of JAX": Entry(lambda s, t: jsparse.BCOO.fromdense(sparse_dense(s, t))),
}

# The others are siblings of these: they are tested where slow tests are.
_FIRST = {
    "array",
    "block",
    "composed with the identity",
    "convolution",
    "diagonal plus low rank",
    "fft, real",
    "function with activations",
    "gradient",
    "jacobian of a network",
    "kernel",
    "leaves",
    "lineax, function",
    "lineax, jacobian of a network",
    "lineax, pytree",
    "lineax, tagged",
    "mask",
    "matrix, bfloat16",
    "matrix, complex",
    "matrix, deficient",
    "matrix, tall",
    "network",
    "null space",
    "pytrees",
    "README's blur",
    "sparse",
    "static leaves",
    "weakly typed leaf",
}
OPERATORS: dict[str, Entry] = {
    name: dataclasses.replace(entry, slow=name not in _FIRST)
    for name, entry in (FAMILIES | own.OWN | LINEAX | ARRAYS).items()
}
