"""Joseph's projection of an image, and its transpose, both by gathers alone.

Angles are taken one at a time, so that memory stays that of image and sinogram.
"""

import functools as ft
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._jax import manual_axes, vary


class Grid(NamedTuple):
    """What is fixed about pixels and detectors."""

    shape: tuple[int, int]
    num_detectors: int
    spacing: float
    centre: tuple[float, float]


Order = tuple[int, int]  # of the derivative with respect to angle and shift
Pose = tuple[Array, Array]  # angles and shifts, or those of one projection


def _weight(order: Order, pose: Pose, x: Array, y: Array, t: Array) -> Array:
    """`Λ(u / c) / c`, how much detector `t` sees of pixel `(x, y)`, or a derivative.

    Both products take their weights from here, also at the kinks of `Λ`, where JAX's
    derivative is the mean of those on either side.
    """
    for i in range(2):
        if order[i]:
            lower = (order[0] - (i == 0), order[1] - (i == 1))
            weight = lambda *pose: _weight(lower, pose, x, y, t)  # noqa: B023
            tangents = tuple(
                jnp.full_like(p, 1 if i == j else 0) for j, p in enumerate(pose)
            )
            return jax.jvp(weight, pose, tangents)[1]
    angle, shift = pose
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    c = jnp.maximum(jnp.abs(cos), jnp.abs(sin))
    u = (t - shift - x * cos + y * sin) / c
    # Not `abs`: its derivative at 0 is 1.
    return jnp.maximum(0, 1 - jnp.maximum(u, -u)) / c


def _gather(array: Array, index: Array, offset: Array | int, size: int) -> Array:
    """Entries of a ravelled array whose rows, of this size, have a zero at each end."""
    inside = (jnp.clip(index, -1, size) + 1).astype(jnp.int32)
    return array.at[inside + offset].get(mode="promise_in_bounds")


def _project_all(grid: Grid, order: Order, pose: Pose, image: Array) -> Array:
    """One sum of interpolated rows, or columns where these are nearer, at a time."""
    rows, columns = grid.shape
    n, dtype = max(rows, columns), image.dtype
    pad = lambda v: jnp.pad(v, ((0, n - v.shape[0]), (1, n - v.shape[1] + 1)))
    upright, lying = pad(image).ravel(), pad(image.T).ravel()
    lines = jnp.arange(n, dtype=jnp.int32)[:, None]
    t = (jnp.arange(grid.num_detectors) - grid.num_detectors // 2)[None, :]
    t = t.astype(dtype) * grid.spacing

    def one(pose: Pose) -> Array:
        cos, sin = jnp.cos(pose[0]), jnp.sin(pose[0])
        steep = jnp.abs(cos) >= jnp.abs(sin)
        either = lambda a, b: jnp.where(steep, a, b)
        pixels = either(upright, lying)
        along, across = either(cos, -sin), either(-sin, cos)
        start, origin = (either(*c) for c in (grid.centre, grid.centre[::-1]))
        start, origin = start.astype(dtype), origin.astype(dtype)
        line = lines.astype(dtype) - start
        crossing = (t - pose[1] - across * line) / along + origin
        first = jnp.floor(crossing) if order == (0, 0) else jnp.round(crossing) - 1
        total = jnp.zeros_like(crossing)
        for step in range(2 if order == (0, 0) else 3):
            index = first + step
            weight = _weight(
                order,
                pose,
                either(index - origin, line),
                either(line, index - origin),
                t,
            )
            total += weight * _gather(pixels, index, lines * (n + 2), n)
        # Faster than a sum, which XLA would fuse with the gather and not vectorise.
        ones = jnp.ones(n, dtype)
        return jnp.matmul(ones, total, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(one, pose)


def _spread_all(grid: Grid, order: Order, pose: Pose, sinogram: Array) -> Array:
    """What each pixel gets from the two detectors that see it, or some more."""
    dtype, middle = sinogram.dtype, grid.num_detectors // 2
    y = jnp.arange(grid.shape[0], dtype=dtype)[:, None] - grid.centre[0]
    x = jnp.arange(grid.shape[1], dtype=dtype)[None, :] - grid.centre[1]
    reach = 1 / grid.spacing

    def one(image: Array, projection: tuple[Pose, Array]) -> tuple[Array, None]:
        pose, values = projection
        cos, sin = jnp.cos(pose[0]), jnp.sin(pose[0])
        seen_at = (x * cos - y * sin + pose[1]) * reach + middle
        if order == (0, 0):
            c = jnp.maximum(jnp.abs(cos), jnp.abs(sin))
            first, steps = jnp.floor(seen_at - c * reach) + 1, math.ceil(2 * reach)
        else:
            first = jnp.round(seen_at) - math.ceil(reach)
            steps = 2 * math.ceil(reach) + 1
        for step in range(steps):
            index = first + step
            weight = _weight(order, pose, x, y, (index - middle) * grid.spacing)
            image += weight * _gather(values, index, 0, grid.num_detectors)
        return image, None

    padded = jnp.pad(sinogram, ((0, 0), (1, 1)))
    zeros = jnp.zeros(grid.shape, dtype)
    zeros = vary(zeros, manual_axes((pose, sinogram)))
    return jax.lax.scan(one, zeros, (pose, padded))[0]


def _linear(
    product: Callable[[Array], Array], transposed: Callable[[Array], Array], v: Array
) -> Array:
    """`product(v)`, which JAX transposes to `transposed`: otherwise it would scatter.

    The public way to say so: it is half the solution of `x = v, y - product(x) = 0`.
    Both halves are one array, so that JAX sees the whole of it depend on `v`.
    """
    shape = jax.eval_shape(product, v).shape
    split = lambda xy: (xy[: v.size].reshape(v.shape), xy[v.size :].reshape(shape))
    join = lambda x, y: jnp.concatenate([x.ravel(), y.ravel()])

    def matvec(xy: Array) -> Array:
        x, y = split(xy)
        return join(x, y - product(x))

    def solve(_: Any, xy: Array) -> Array:
        x, y = split(xy)
        return join(x, y + product(x))

    def transpose_solve(_: Any, xy: Array) -> Array:
        x, y = split(xy)
        return join(x + transposed(y), y)

    rhs = jnp.pad(v.ravel(), (0, math.prod(shape)))
    return split(jax.lax.custom_linear_solve(matvec, rhs, solve, transpose_solve))[1]


@ft.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def project(grid: Grid, order: Order, pose: Pose, image: Array) -> Array:
    """The sinogram, or its derivative of some order with respect to the pose.

    Derivatives with respect to `pose` and `image` exist to any order, forward and
    reverse, and neither they nor the product itself scatter.
    """
    return _linear(
        ft.partial(_project_all, grid, order, pose),
        ft.partial(_spread_all, grid, order, pose),
        image,
    )


@ft.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def spread(grid: Grid, order: Order, pose: Pose, sinogram: Array) -> Array:
    """The transpose of `project`."""
    return _linear(
        ft.partial(_spread_all, grid, order, pose),
        ft.partial(_project_all, grid, order, pose),
        sinogram,
    )


# A projection depends on its own angle and shift alone: a derivative is one product
# with weights differentiated once, whatever the number of angles.


def _project_jvp(
    grid: Grid, order: Order, primals: tuple[Pose, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    pose, image = primals
    out = project(grid, order, pose, image)
    tangent = jnp.zeros_like(out)
    if not _is_zero(tangents[1]):
        tangent += project(grid, order, pose, tangents[1])
    for higher, rate in zip(_higher(order), tangents[0], strict=True):
        if not _is_zero(rate):
            tangent += rate[:, None] * project(grid, higher, pose, image)
    return out, tangent


def _spread_jvp(
    grid: Grid, order: Order, primals: tuple[Pose, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
    pose, sinogram = primals
    out = spread(grid, order, pose, sinogram)
    tangent = jnp.zeros_like(out)
    if not _is_zero(tangents[1]):
        tangent += spread(grid, order, pose, tangents[1])
    for higher, rate in zip(_higher(order), tangents[0], strict=True):
        if not _is_zero(rate):
            tangent += spread(grid, higher, pose, rate[:, None] * sinogram)
    return out, tangent


def _higher(order: Order) -> tuple[Order, Order]:
    return (order[0] + 1, order[1]), (order[0], order[1] + 1)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


project.defjvp(_project_jvp, symbolic_zeros=True)
spread.defjvp(_spread_jvp, symbolic_zeros=True)
