"""Bounds: time, products and objective beside SciPy's solvers."""

import functools as ft
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import scipy.optimize
import scipy.sparse.linalg
import skimage.data
import skimage.transform

import lsqflow as lf
from lsqflow._constrained.bounds import solve_bounded
from lsqflow._constrained.box import as_box

from ._problems import matrix, vector
from ._report import table
from ._timing import interleave
from .applications import Counter

BLUR, NOISE, DAMP = 1.5, 0.01, 0.03

SETTINGS = f"""
Dense: normal random b, bounds uniform in ± twice the median of |A⁺b|, LSMR at
rtol = 1e-14 beside `lsq_linear(method="bvls", tol=1e-14, max_iter=10**5)`.
Photograph: `camera()` of `skimage.data`, 0.3 subtracted and cut at zero, blurred by a
Gaussian of {BLUR:g} pixels with zeros beyond the border, noise {NOISE:g},
λ = {DAMP:g}, x ≥ 0; rtol = 1e-8 beside `lsq_linear(method="trf", lsq_solver="lsmr",
tol=1e-8)`, the blur by `scipy.ndimage`. Products are those with the operator or its
transpose. The objective is relative to the smaller one of the two."""


class Blur(lf.AbstractOperator):
    """A separable, symmetric blur of an image with zeros beyond its border."""

    kernel: jax.Array
    shape: tuple[int, int] = eqx.field(static=True)

    def mv(self, vector: Any) -> Any:
        return self._along(self._along(vector, 0), 1)

    def _along(self, image: Any, axis: int) -> Any:
        half, n = len(self.kernel) // 2, image.shape[axis]
        padded = jnp.pad(image, [(half, half) if a == axis else (0, 0) for a in (0, 1)])
        shifted = (
            jax.lax.slice_in_dim(padded, i, i + n, axis=axis)
            for i in range(len(self.kernel))
        )
        return sum(k * z for k, z in zip(self.kernel, shifted, strict=True))

    def rmv(self, vector: Any) -> Any:
        return self.mv(vector)

    def in_structure(self) -> Any:
        return jax.ShapeDtypeStruct(self.shape, self.kernel.dtype)

    def linearise(self) -> "Blur":
        return self


class Counted(lf.AbstractOperator):
    """Counts every product, in either direction, as it runs."""

    operator: lf.AbstractOperator
    counter: Counter = eqx.field(static=True)

    def mv(self, vector: Any) -> Any:
        jax.debug.callback(self.counter.up)
        return self.operator.mv(vector)

    def rmv(self, vector: Any) -> Any:
        jax.debug.callback(self.counter.up)
        return self.operator.rmv(vector)

    def in_structure(self) -> Any:
        return self.operator.in_structure()

    def linearise(self) -> "Counted":
        return self


def products(operator: Any, *args: Any) -> int:
    """How many products a solve runs."""
    counter = Counter()
    jax.block_until_ready(ours(Counted(operator, counter), *args))
    jax.effects_barrier()
    return counter.count


@eqx.filter_jit
def ours(operator: Any, b: Any, damp: Any, box: Any, rtol: float) -> Any:
    adjoint, solver = lf.ImplicitAdjoint(), lf.LSMR(rtol=rtol)
    problem = lf.Problem(operator, b, damp)
    solution, stats = solve_bounded(problem, box, solver, adjoint, throw=False)
    return solution.primal, stats


@eqx.filter_jit
def gradient(operator: Any, b: Any, damp: Any, box: Any, rtol: float) -> Any:
    return jax.grad(lambda b: jnp.sum(ours(operator, b, damp, box, rtol)[0] ** 2))(b)


def objective(A: Any, b: Any, damp: float, x: Any) -> float:
    return 0.5 * float(np.sum((A(x) - b) ** 2) + damp**2 * np.sum(x**2))


def photograph(size: int) -> tuple[Any, Any]:
    """The kernel and the blurred noisy image."""
    image = skimage.data.camera().astype(float) / 255
    image = skimage.transform.resize(image, (size, size), anti_aliasing=True)
    offsets = np.arange(-int(4 * BLUR), int(4 * BLUR) + 1)
    kernel = np.exp(-0.5 * (offsets / BLUR) ** 2)
    kernel /= kernel.sum()
    noise = np.random.default_rng(0).standard_normal((size, size))
    return kernel, blur(kernel, np.maximum(image - 0.3, 0)) + NOISE * noise


def blur(kernel: Any, image: Any) -> Any:
    for axis in (0, 1):
        image = scipy.ndimage.convolve1d(image, kernel, axis=axis, mode="constant")
    return image


def scipy_image(kernel: Any, b: Any) -> tuple[Any, int, float]:
    """SciPy's solution, its products, and its seconds."""
    shape, n, count = b.shape, b.size, [0]

    def forward(x: Any) -> Any:
        count[0] += 1
        image = blur(kernel, x.reshape(shape))
        return np.concatenate([image.ravel(), DAMP * x.ravel()])

    def backward(u: Any) -> Any:
        count[0] += 1
        return blur(kernel, u.ravel()[:n].reshape(shape)).ravel() + DAMP * u.ravel()[n:]

    operator = scipy.sparse.linalg.LinearOperator(
        (2 * n, n), matvec=forward, rmatvec=backward, dtype=b.dtype
    )
    start = time.perf_counter()
    out = scipy.optimize.lsq_linear(
        operator,
        np.concatenate([b.ravel(), np.zeros(n)]),
        (0, np.inf),
        method="trf",
        lsq_solver="lsmr",
        lsmr_tol="auto",
        tol=1e-8,
        max_iter=200,
    )
    return out.x.reshape(shape), count[0], time.perf_counter() - start


def images(sizes: tuple[int, ...]) -> None:
    rows = []
    for size in sizes:
        kernel, b = photograph(size)
        operator = Blur(jnp.asarray(kernel), (size, size))
        box = as_box(0.0, None, operator.in_structure())
        args = operator, jnp.asarray(b), jnp.asarray(DAMP), box, 1e-8
        x, _ = ours(*args)
        calls = {
            "value": ft.partial(ours, *args),
            "value and gradient": ft.partial(gradient, *args),
        }
        times = interleave(calls, 3)
        theirs, their_products, seconds = scipy_image(kernel, b)
        A = ft.partial(blur, kernel)
        x = np.asarray(x)
        values = [objective(A, b, DAMP, z) for z in (np.asarray(x), theirs)]
        best = min(values)
        rows += [
            [
                f"{size}×{size}",
                "lsqflow",
                times["value"].best,
                times["value and gradient"].best,
                products(*args),
                values[0] / best - 1,
                float(np.mean(x == 0)),
            ],
            ["", "SciPy", seconds, "", their_products, values[1] / best - 1, ""],
            ["", "SciPy / lsqflow", seconds / times["value"].best, "", "", "", ""],
        ]
    columns = ["image", "", "seconds", "with gradient", "products", "objective"]
    table([*columns, "at bounds"], rows)


def dense(rounds: int) -> None:
    rows = []
    for shape in ((200, 100), (100, 200)):
        for condition in (1e1, 1e4):
            m, n = shape
            A, b = matrix(m, n, condition), vector(m)
            rng = np.random.default_rng(1)
            scale = 2 * np.median(np.abs(np.linalg.pinv(A) @ b))
            lower, upper = -scale * rng.random(n), scale * rng.random(n)
            operator = lf.MatrixOperator(jnp.asarray(A))
            box = as_box(lower, upper, operator.in_structure())
            args = operator, jnp.asarray(b), None, box, 1e-14
            calls = {
                "lsqflow": ft.partial(ours, *args),
                "SciPy": ft.partial(
                    scipy.optimize.lsq_linear,
                    *(A, b, (lower, upper)),
                    method="bvls",
                    tol=1e-14,
                    max_iter=10**5,
                ),
            }
            x, _ = calls["lsqflow"]()
            theirs = calls["SciPy"]().x
            times = interleave(calls, rounds)
            values = [
                objective(A.__matmul__, b, 0.0, z) for z in (np.asarray(x), theirs)
            ]
            rows.append(
                [
                    f"{m}×{n}",
                    condition,
                    float(np.mean((x == lower) | (x == upper))),
                    1e3 * times["lsqflow"].best,
                    1e3 * times["SciPy"].best,
                    products(*args),
                    *(v / min(values) - 1 for v in values),
                ]
            )
    columns = [
        "shape",
        "κ",
        "at bounds",
        "ms",
        "SciPy's ms",
        "products",
        "objective",
        "SciPy's",
    ]
    table(columns, rows)


def main(*, quick: bool) -> None:
    print(SETTINGS)
    dense(2 if quick else 5)
    images((64,) if quick else (64, 128))
