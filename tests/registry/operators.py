"""The operators: each family, users' own, and lineax's, all small and well conditioned.

An entry makes an operator from a seed and a dtype. Another seed gives other values and
the same program: closures are defined anew, and equal.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jax.experimental import sparse as jsparse

import lsqflow as lf

from .. import helpers
from . import own


@dataclasses.dataclass(frozen=True)
class Entry:
    """An operator, and what a solver may want to know of it."""

    make: Callable[[int, Any], Any]
    definite: bool = False  # says of itself that it is (semi-)definite
    moves_rank: bool = False  # a change of its leaves changes its rank
    no_leaves: bool = False  # nothing to differentiate, and no new values
    half: bool = False  # whatever dtype was asked for
    array: bool = False  # an array or a sparse matrix: lineax wants an operator
    slow: bool = False  # a sibling of another entry


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


def sparse_dense(seed, dtype, shape=(8, 5)):
    g = helpers.rng(seed)
    A = g.standard_normal(shape) * (helpers.rng(99).random(shape) < 0.3)
    return (A / 2 + np.eye(*shape)).astype(dtype)


def from_triplets(seed, dtype):
    A = sparse_dense(seed, dtype)
    rows, columns = np.nonzero(sparse_dense(0, np.float64))
    return lf.SparseOperator.from_triplets(A[rows, columns], rows, columns, A.shape)


def closure(seed, dtype):
    A = matrix(seed, (7, 5), dtype)
    return lf.FunctionOperator(lambda x: A @ x, struct((5,), dtype))


def closure_with_relu(seed, dtype):
    A, shift = matrix(seed, (7, 5), dtype), array(seed + 1, 5, dtype)

    def fn(x):
        return A @ (x["a"] * (jax.nn.relu(shift) + 1)), x["a"] * jax.nn.silu(shift)

    return lf.FunctionOperator(fn, {"a": struct((5,), dtype)})


def tanh_layer(x, weights):
    return jnp.tanh(weights @ x / 4) + weights @ x


def jacobian(seed, dtype):
    at = array(seed, 5, dtype) / 4
    return lf.JacobianOperator(tanh_layer, at, matrix(seed + 1, (7, 5), dtype))


def network(seed, dtype, sizes=(2, 1)):
    key = jax.random.key(0)
    model = eqx.nn.MLP(*sizes, 4, 1, activation=jax.nn.silu, dtype=dtype, key=key)
    arrays, rest = eqx.partition(model, eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    made = [array(seed + i, x.shape, dtype) for i, x in enumerate(leaves)]
    return eqx.combine(jax.tree.unflatten(treedef, made), rest)


def network_jacobian(seed, dtype):
    model = network(seed, dtype, (4, 4))
    A = matrix(seed, (6, 4), dtype)
    at = array(seed + 1, 4, dtype)
    return lf.JacobianOperator(lambda x, model: A @ (x + model(x) / 8), at, model)


def gauss_newton(seed, dtype):
    at = array(seed, 5, dtype) / 4
    args = (tanh_layer, at, matrix(seed + 1, (7, 5), dtype))
    return lf.GaussNewtonOperator(*args, damp=0.5)


def learned(seed, dtype):
    rows, columns = array(seed, (7, 2), dtype), array(seed + 1, (5, 2), dtype)
    return own.Learned(network(seed, dtype), rows, columns)


def static_leaves(seed, dtype):
    entries = 2 * matrix(seed, (7, 5), dtype) + jnp.eye(7, 5, dtype=dtype)
    return own.StaticLeaves(entries, jax.nn.softplus, "plain", 2, 1.5)


def weak_leaf(seed, dtype):
    return own.WeakLeaf(matrix(seed, (7, 5), dtype), jnp.asarray(1.5 + seed / 8))


def kernel_rows(seed, dtype):
    x = array(seed, (7, 2), dtype)
    scale = jnp.asarray(0.8 + seed / 16, dtype)

    def gaussian(p, q):
        return jnp.exp(-jnp.sum(((p - q) / scale) ** 2) / 2)

    noise = jnp.full(7, 0.5, dtype)
    return lf.KernelOperator(
        gaussian, x, noise=noise, chunk_size=4, positive_semidefinite=True
    )


def features(seed, dtype):
    x, frequencies = array(7, (9, 2), dtype), array(seed, (3, 2), dtype)
    phases = jnp.abs(array(seed + 1, 3, dtype))
    return lf.RandomFeatures(x, frequencies, phases, lengthscale=0.5, chunk_size=4)


def radon(seed, dtype):
    del seed
    angles = jnp.asarray(np.linspace(0.1, 2.9, 4), dtype)
    return lf.Radon(angles, (3, 3), dtype=dtype)


def interpolation(seed, dtype):
    g = helpers.rng(seed)
    points = np.arange(6) % 6 + 0.3 * g.uniform(size=6)
    return lf.Interpolation(
        jnp.asarray(points[:, None].astype(dtype)), (6,), dtype=dtype, boundary="wrap"
    )


def mixed(seed, dtype):
    """Tall, from a dictionary to a pair."""
    return own.Split(matrix(seed, (7, 5), dtype))


FAMILIES = {
    "matrix, tall": Entry(lambda s, t: dense(s, (8, 5), t)),
    "matrix, wide": Entry(lambda s, t: dense(s, (5, 8), t)),
    "matrix, square": Entry(lambda s, t: dense(s, (6, 6), t)),
    "matrix, complex": Entry(lambda s, t: dense(s, (7, 5), complex_of(t))),
    "matrix, deficient": Entry(
        lambda s, t: lf.MatrixOperator(matrix(s, (8, 6), t, rank=4)), moves_rank=True
    ),
    "matrix, positive": Entry(
        lambda s, t: lf.MatrixOperator(
            positive(s, 6, t),
            frozenset({lx.positive_semidefinite_tag, lx.symmetric_tag}),
        ),
        definite=True,
    ),
    "matrix, bfloat16": Entry(
        lambda s, _: lf.MatrixOperator(half(s, (7, 4), jnp.bfloat16)), half=True
    ),
    "matrix, float16": Entry(
        lambda s, _: lf.MatrixOperator(half(s, (5, 5), jnp.float16)), half=True
    ),
    "transposed": Entry(lambda s, t: dense(s, (5, 8), t).T),
    "sum": Entry(lambda s, t: dense(s, (7, 5), t) + 0.5 * closure(s + 1, t)),
    "composed": Entry(
        lambda s, t: dense(s, (8, 6), t) @ lf.Diagonal(2 + matrix(s, (6, 6), t)[0])
    ),
    "composed with the identity": Entry(
        lambda s, t: (
            lf.Convolution(kernel2d(s, t), (4, 3)) @ lf.Identity(struct((4, 3), t))
        )
    ),
    "scaled": Entry(lambda s, t: dense(s, (7, 5), t) * jnp.asarray(2.5 + s / 8, t)),
    "identity": Entry(
        lambda _, t: lf.Identity({"a": struct((2, 3), t), "b": struct((2,), t)}),
        definite=True,
        no_leaves=True,
    ),
    "zero": Entry(
        lambda _, t: lf.Zero(struct((4,), t), struct((3,), t)), no_leaves=True
    ),
    "diagonal": Entry(lambda s, t: lf.Diagonal(3 + matrix(s, (6, 6), t)[0])),
    "vstack": Entry(
        lambda s, t: lf.VStack({"a": dense(s, (5, 4), t), "b": matrix(s, (3, 4), t)})
    ),
    "hstack": Entry(
        lambda s, t: lf.HStack([dense(s, (5, 3), t), matrix(s + 1, (5, 4), t)])
    ),
    "block": Entry(
        lambda s, t: lf.Block(
            [
                [dense(s, (5, 4), t), None],
                [matrix(s + 1, (3, 4), t), matrix(s + 2, (3, 2), t)],
            ]
        )
    ),
    "block diagonal": Entry(
        lambda s, t: lf.BlockDiagonal(
            (dense(s, (5, 4), t), lf.Identity(struct((3,), t)))
        )
    ),
    "kronecker": Entry(
        lambda s, t: lf.Kronecker(dense(s, (3, 2), t), dense(s + 1, (4, 3), t))
    ),
    "kronecker sum": Entry(
        lambda s, t: lf.KroneckerSum(
            lf.MatrixOperator(positive(s, 3, t)), lf.MatrixOperator(positive(s, 3, t))
        )
    ),
    "low rank": Entry(
        lambda s, t: lf.LowRank(matrix(s, (6, 2), t), matrix(s + 1, (5, 2), t))
    ),
    "diagonal plus low rank": Entry(
        lambda s, t: lf.DiagonalPlusLowRank(
            3 + matrix(s, (6, 6), t)[0], matrix(s, (6, 2), t), matrix(s + 1, (6, 2), t)
        )
    ),
    "mask": Entry(
        lambda _, t: lf.Mask(
            jnp.asarray([[True, False, True], [False, True, True]]), t
        ),
        definite=True,
    ),
    "selection": Entry(
        lambda _, t: lf.Selection([3, 0, -1, 3], struct((2, 5), t), axis=1),
        no_leaves=True,
    ),
    "leaves": Entry(
        lambda _, t: lf.LeafSelection(
            {"a": False, "b": True}, {"a": struct((2,), t), "b": struct((3,), t)}
        ),
        no_leaves=True,
    ),
    "permutation": Entry(
        lambda _, t: lf.Permutation([2, 0, 3, 1], struct((2, 4), t), axis=-1),
        no_leaves=True,
    ),
    "reshape": Entry(
        lambda _, t: lf.Reshape(struct((2, 6), t), (3, 4)), no_leaves=True
    ),
    "ravel": Entry(
        lambda _, t: lf.Ravel({"a": struct((2, 3), t), "b": [struct((4,), t)]}),
        no_leaves=True,
    ),
    "convolution": Entry(
        lambda s, t: lf.Convolution(kernel2d(s, t), (3, 4), boundary="reflect")
    ),
    "convolution, fft": Entry(
        lambda s, t: lf.Convolution(
            kernel2d(s, t), (4, 3), boundary="wrap", method="fft"
        )
    ),
    "padding": Entry(
        lambda _, t: lf.Padding(((1, 2), (0, 1)), struct((2, 3), t), "edge"),
        no_leaves=True,
    ),
    "fft": Entry(lambda _, t: lf.FFT((3, 4), dtype=complex_of(t)), no_leaves=True),
    "fft, real": Entry(
        lambda _, t: lf.FFT((2, 6), real=True, dtype=t), no_leaves=True
    ),
    "real part": Entry(
        lambda _, t: lf.Real(struct((2, 3), complex_of(t))), no_leaves=True
    ),
    "circulant": Entry(
        lambda s, t: lf.Circulant(
            jnp.asarray([2.0, 0.5, 0, 0, 0, -0.3], t) + array(s, 6, t) / 16
        )
    ),
    "toeplitz": Entry(
        lambda s, t: lf.Toeplitz(
            jnp.asarray([2.0, 0.5, 0, 0, 0, -0.3, 0.2], t) + array(s, 7, t) / 16,
            array(s + 1, 4, t) / 8,
        )
    ),
    "difference": Entry(
        lambda _, t: lf.Difference((4, 3), 0, spacing=0.5, dtype=t), no_leaves=True
    ),
    "gradient": Entry(
        lambda _, t: lf.Gradient((3, 4), spacing=(0.5, 1.0), dtype=t), no_leaves=True
    ),
    "laplacian": Entry(
        lambda _, t: lf.Laplacian((3, 4), dtype=t), definite=True, no_leaves=True
    ),
    "integration": Entry(lambda _, t: lf.Integration((3, 4), 1, dtype=t)),
    "interpolation": Entry(interpolation),
    "resampling": Entry(lambda _, t: lf.Resampling((3, 3), (2, 4), dtype=t)),
    "radon": Entry(radon),
    "kernel": Entry(kernel_rows, definite=True),
    "random features": Entry(features),
    "function": Entry(closure),
    "function with activations": Entry(closure_with_relu),
    "jacobian": Entry(jacobian),
    "jacobian of a network": Entry(network_jacobian),
    "gauss-newton": Entry(gauss_newton, definite=True),
    "sparse": Entry(from_triplets),
    "pseudo-inverse": Entry(lambda s, t: lf.pinv(matrix(s, (5, 7), t))),
    "pseudo-inverse, iterative": Entry(lambda s, t: lf.pinv(closure(s, t), lf.LSMR())),
    "null space": Entry(
        lambda s, t: lf.NullSpaceProjector(matrix(s, (3, 6), t)), definite=True
    ),
    "range": Entry(lambda s, t: lf.RangeProjector(closure(s, t)), definite=True),
}

OWN = {
    "README's blur": Entry(lambda s, t: own.Blur(kernel2d(s, t), (3, 4))),
    "own transpose": Entry(lambda s, t: own.OwnTranspose(matrix(s, (7, 5), t))),
    "pytrees": Entry(mixed),
    "network": Entry(learned),
    "static leaves": Entry(static_leaves),
    "weakly typed leaf": Entry(weak_leaf),
}


def _lineax_function(seed, dtype):
    A = matrix(seed, (7, 5), dtype)
    return lx.FunctionLinearOperator(lambda x: A @ x, struct((5,), dtype))


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
        no_leaves=True,
    ),
    "lineax, function": Entry(_lineax_function),
    "lineax, positive function": Entry(
        lambda s, t: lx.FunctionLinearOperator(
            lambda x, A=positive(s, 6, t): A @ x,
            struct((6,), t),
            lx.positive_semidefinite_tag,
        ),
        definite=True,
    ),
    "lineax, jacobian": Entry(_lineax_jacobian),
    "lineax, jacobian of a network": Entry(_lineax_network),
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
    "lineax, composed": Entry(_lineax_composed),
    "lineax, added": Entry(_lineax_added),
    "lineax, negated": Entry(lambda s, t: -_lineax_function(s, t)),
}

ARRAYS = {
    "array": Entry(lambda s, t: matrix(s, (7, 5), t), array=True),
    "array of NumPy": Entry(lambda s, t: np.asarray(matrix(s, (5, 7), t)), array=True),
    "array, bfloat16": Entry(
        lambda s, _: half(s, (6, 4), jnp.bfloat16), half=True, array=True
    ),
    "array, float16": Entry(
        lambda s, _: half(s, (4, 6), jnp.float16), half=True, array=True
    ),
    "sparse of SciPy": Entry(
        lambda s, t: scipy.sparse.csr_array(sparse_dense(s, t)), array=True
    ),
    "sparse of JAX": Entry(
        lambda s, t: jsparse.BCOO.fromdense(sparse_dense(s, t)), array=True
    ),
}

# Siblings of others: what holds for those holds for them, unless something odd happens.
_SIBLINGS = {
    "array of NumPy",
    "array, float16",
    "block diagonal",
    "convolution, fft",
    "difference",
    "gauss-newton",
    "hstack",
    "integration",
    "interpolation",
    "kronecker sum",
    "laplacian",
    "leaves",
    "lineax, diagonal",
    "lineax, identity",
    "lineax, negated",
    "lineax, positive function",
    "lineax, tagged blur",
    "lineax, triangular",
    "lineax, tridiagonal",
    "low rank",
    "matrix, float16",
    "matrix, square",
    "padding",
    "permutation",
    "pseudo-inverse, iterative",
    "random features",
    "range",
    "ravel",
    "real part",
    "resampling",
    "reshape",
    "scaled",
    "selection",
    "sparse of JAX",
    "toeplitz",
    "transposed",
    "vstack",
}
OPERATORS: dict[str, Entry] = {
    name: dataclasses.replace(entry, slow=name in _SIBLINGS)
    for name, entry in (FAMILIES | OWN | LINEAX | ARRAYS).items()
}
