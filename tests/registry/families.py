"""One or two operators of each family."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import lsqflow as lf

from .. import helpers
from .entry import (
    Entry,
    array,
    complex_of,
    dense,
    half,
    kernel2d,
    matrix,
    positive,
    struct,
)


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
    ),
    "zero": Entry(lambda _, t: lf.Zero(struct((4,), t), struct((3,), t))),
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
    ),
    "leaves": Entry(
        lambda _, t: lf.LeafSelection(
            {"a": False, "b": True}, {"a": struct((2,), t), "b": struct((3,), t)}
        ),
    ),
    "permutation": Entry(
        lambda _, t: lf.Permutation([2, 0, 3, 1], struct((2, 4), t), axis=-1),
    ),
    "reshape": Entry(lambda _, t: lf.Reshape(struct((2, 6), t), (3, 4))),
    "ravel": Entry(
        lambda _, t: lf.Ravel({"a": struct((2, 3), t), "b": [struct((4,), t)]}),
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
    ),
    "fft": Entry(lambda _, t: lf.FFT((3, 4), dtype=complex_of(t))),
    "fft, real": Entry(lambda _, t: lf.FFT((2, 6), real=True, dtype=t)),
    "real part": Entry(lambda _, t: lf.Real(struct((2, 3), complex_of(t)))),
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
    "difference": Entry(lambda _, t: lf.Difference((4, 3), 0, spacing=0.5, dtype=t)),
    "gradient": Entry(lambda _, t: lf.Gradient((3, 4), spacing=(0.5, 1.0), dtype=t)),
    "laplacian": Entry(lambda _, t: lf.Laplacian((3, 4), dtype=t), definite=True),
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
        lambda s, t: lf.NullSpaceProjector(matrix(s, (3, 6), t), throw=False),
        definite=True,
    ),
    # BiCGStab breaks down with either, and hands NaN to the solve inside.
    "range": Entry(
        lambda s, t: lf.RangeProjector(closure(s, t), throw=False), definite=True
    ),
}
