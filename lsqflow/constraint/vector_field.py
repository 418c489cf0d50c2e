"""Vector fields at a batch of points: their derivatives, and random probes."""

import abc
import functools as ft
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from .. import _tree as tree
from .._operator.display import brief
from .base import AbstractConstraint
from .inputs import take


class AbstractFieldConstraint(AbstractConstraint):
    """A condition on the Jacobian, in x, of a vector field `field(params, x)`.

    It holds at the points of each step. With probes, it is a condition on products of
    the Jacobian with random vectors, which come with each step as well.
    """

    field: eqx.AbstractVar[Callable[..., Array]]
    probes: eqx.AbstractVar[int | None]

    @abc.abstractmethod
    def _prefix(self) -> tuple[int, ...] | None:
        """The axes of the probes in front of those of the points; None without."""

    def sampler(self, points: Any) -> "PointsAndProbes":
        """A sampler for [`lsqflow.Sampled`][] that adds probes to points.

        **Arguments:**

        - `points`: a function from a key to points; or points, the same at each step.

        **Returns:** a function from a key to `(points, probes)`, or to `(points,)`
        without probes. Entries of probes are ±1.
        """
        return PointsAndProbes(points, self._prefix())

    def _at(self, params: PyTree[Array], args: tuple[Any, ...]) -> "VectorField":
        """The field at the points, with the probes."""
        name, prefix = f"`{type(self).__name__}`", self._prefix()
        names = ("points",) if prefix is None else ("points", "probes")
        points, *probes = take(args, names, name)
        field = ft.partial(self.field, params)
        return VectorField(name, field, points, probes, prefix)


class PointsAndProbes(eqx.Module):
    """A sampler of points, `points(key)`, and of probes with entries ±1 if any."""

    points: Any
    prefix: tuple[int, ...] | None = eqx.field(static=True)

    def __call__(self, key: Key[Array, ""]) -> tuple[Any, ...]:
        point_key, probe_key = jax.random.split(key)
        points = self.points(point_key) if callable(self.points) else self.points
        if self.prefix is None:
            return (points,)
        x = jnp.asarray(points[0] if isinstance(points, tuple) else points)
        shape = (*self.prefix, *x.shape)
        return points, jax.random.rademacher(probe_key, shape, x.dtype)


class VectorField:
    """A vector field as a function of all the points, and its derivatives there."""

    def __init__(
        self,
        name: str,
        point_field: Callable[..., Array],
        points: Any,
        probes: list[Any],
        prefix: tuple[int, ...] | None,
    ) -> None:
        x, *self._rest = map(
            jnp.asarray, points if isinstance(points, tuple) else (points,)
        )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{name}: points must be real and floating-point; got {brief(x)}. "
                "Convert them with `.astype(float)`."
            )
        if not x.ndim or not x.shape[0]:
            raise ValueError(
                f"{name}: points must have the shape `(batch, …)`, with one point at "
                f"least; got {brief(x)}. A single point is `point[None]`."
            )
        self._point_field = point_field
        got = tree.structure(jax.eval_shape(self._all, x))
        dtype = getattr(got, "dtype", x.dtype)
        want = jax.ShapeDtypeStruct(x.shape, dtype)
        if got != want or not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"{name}: the field must return what it gets, with the batch "
                f"{brief(tree.structure(x))}; it returns {brief(got)}."
            )
        # Training in mixed precision widens parameters, but not points.
        x = x.astype(dtype)
        self.x, self.batch, self.dimension = x, x.shape[0], math.prod(x.shape[1:])
        if prefix is not None:
            shape, drawn = (*prefix, *x.shape), jnp.asarray(probes[0])
            if drawn.shape != shape:
                raise ValueError(
                    f"{name}: probes must have the shape {shape} for points of the "
                    f"shape {x.shape}; got {drawn.shape}. `spec.sampler` draws them."
                )
            self.probes = drawn.astype(x.dtype)

    def _all(self, x: Array) -> Array:
        """The vectors at all the points."""
        return jax.vmap(self._point_field)(x, *self._rest)

    def jacobians(self) -> Float[Array, "batch d d"]:
        """The Jacobians at all the points."""

        def flat(x: Array, *rest: Array) -> Array:
            return self._point_field(x.reshape(self.x.shape[1:]), *rest).reshape(-1)

        x = self.x.reshape(self.batch, self.dimension)
        return jax.vmap(jax.jacfwd(flat))(x, *self._rest)

    def products(self, v: Float[Array, "k batch ..."]) -> Float[Array, "k batch ..."]:
        """`J v` for each of several probes a point."""
        return jax.vmap(lambda v: jax.jvp(self._all, (self.x,), (v,))[1])(v)

    def transposed(self, v: Float[Array, "k batch ..."]) -> Float[Array, "k batch ..."]:
        """`Jᵀ v` for each of several probes a point."""
        _, pull = jax.vjp(self._all, self.x)
        return jax.vmap(lambda v: pull(v)[0])(v)

    def dot(self, u: Array, v: Array) -> Float[Array, "k batch"]:
        """The inner product of each probe and point."""
        return jnp.sum((u * v).reshape(*u.shape[:2], -1), axis=-1)
