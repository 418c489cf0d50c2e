"""Gradients of ½‖A x − y‖²: `jax.grad` through `A.mv`, over `A.rmv(A.mv(x) − y)`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import lsqflow as lf

from ._report import at_most, table
from ._timing import interleave

BAR = 1.5
SETTINGS = """
Operators that override `rmv`, float32. Both are jitted and take turns. JAX alone would
transpose `mv` step by step. Bars are on the ratio of medians.
"""


class Blur(lf.AbstractOperator):
    """A user's operator with a transposed product of its own: a symmetric kernel."""

    kernel: jax.Array
    shape: tuple[int, int] = eqx.field(static=True)

    def mv(self, image: Any) -> Any:
        return jax.scipy.signal.convolve2d(image, self.kernel, mode="same")

    def rmv(self, image: Any) -> Any:
        return self.mv(image)

    def in_structure(self) -> Any:
        return jax.ShapeDtypeStruct(self.shape, self.kernel.dtype)


def operators() -> dict[str, lf.AbstractOperator]:
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
    image = (256, 256)
    f4 = {"dtype": jnp.float32}
    column = normal(4096)
    return {
        "convolution 7×7, 256²": lf.Convolution(normal(7, 7), image),
        "convolution 31×31, 256²": lf.Convolution(normal(31, 31), image),
        "a user's blur 7×7, 256²": Blur(jnp.ones((7, 7), jnp.float32) / 49, image),
        "circulant, 4096": lf.Circulant(column),
        "Toeplitz, 4096": lf.Toeplitz(column, column),
        "FFT, 256²": lf.FFT(image, dtype=jnp.complex64),
        "gradient, 256²": lf.Gradient(image, **f4),
        "Laplacian, 256²": lf.Laplacian(image, **f4),
        "integration, 256²": lf.Integration(image, **f4),
        "padding, 256²": lf.Padding(4, jax.ShapeDtypeStruct(image, jnp.float32)),
        "interpolation, 20000 points": lf.Interpolation(
            255 * jnp.asarray(rng.random((20000, 2)), jnp.float32), image, **f4
        ),
        "Radon, 128², 60 angles": lf.Radon(
            np.linspace(0, np.pi, 60, endpoint=False), (128, 128), **f4
        ),
        "matrix, 1000×500": lf.MatrixOperator(normal(1000, 500)),
        "Kronecker, 60×50 and 40×30": lf.Kronecker(normal(60, 50), normal(40, 30)),
        "low rank, 4000, 20": lf.LowRank(normal(4000, 20)),
        "sparse, 20000×5000": lf.SparseOperator(
            scipy.sparse.random(20000, 5000, 1e-3, random_state=0, dtype=np.float32)
        ),
        "kernel, 800 points": lf.KernelOperator(
            lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2)), normal(800, 3), chunk_size=200
        ),
        "composed: mask, blur": lf.Mask(rng.random(image) > 0.3, jnp.float32)
        @ lf.Convolution(normal(7, 7), image),
    }


def pair(operator: lf.AbstractOperator) -> tuple[Any, Any]:
    """The two ways to the gradient, compiled, with their arguments."""
    rng = np.random.default_rng(1)
    x, y = (
        jax.tree.map(lambda s: jnp.asarray(rng.standard_normal(s.shape), s.dtype), end)
        for end in (operator.in_structure(), operator.out_structure())
    )

    def half(operator: Any, x: Any) -> Any:
        gap = jax.tree.map(jnp.subtract, operator.mv(x), y)
        return 0.5 * sum(jnp.sum(jnp.abs(g) ** 2) for g in jax.tree.leaves(gap))

    def by_hand(operator: Any, x: Any) -> Any:
        gap = jax.tree.map(jnp.subtract, operator.mv(x), y)
        return operator.adjoint_mv(gap)

    grad = eqx.filter_jit(jax.grad(half, argnums=1))
    hand = eqx.filter_jit(by_hand)
    return (lambda: grad(operator, x)), (lambda: hand(operator, x))


def main(*, quick: bool) -> None:
    print(SETTINGS)
    rows: list[Any] = []
    for name, operator in operators().items():
        grad, hand = pair(operator)
        got, want = (jax.tree.leaves(call()) for call in (grad, hand))
        far = max(
            float(jnp.linalg.norm(jnp.conj(a) - b) / jnp.linalg.norm(b))
            for a, b in zip(got, want, strict=True)
        )
        if far > 1e-4:
            msg = f"{name}: the two gradients differ by {far:.1e}."
            raise RuntimeError(msg)
        times = interleave({"grad": grad, "hand": hand}, 5 if quick else 40)
        ratio = times["grad"].over(times["hand"])
        ms = [1e3 * times[k].median for k in ("hand", "grad")]
        rows.append([name, *ms, ratio, at_most(ratio, BAR)])
    table(["", "rmv(mv(x) − y), ms", "jax.grad, ms", "ratio", "bar"], rows)
