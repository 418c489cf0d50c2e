"""A constraint at a point: pinned parameters, and linear conditions for the rest."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.diagonal import Diagonal
from .._operator.structure.selection import Mask
from .._tree import Vector
from ..constraint.base import AbstractConstraint, rows_of
from ..constraint.compose import All
from ..constraint.inputs import require_residual
from ..constraint.pin import AbstractPin

Flags = PyTree[Array]


def split(
    constraint: AbstractConstraint,
) -> tuple[list[AbstractPin], AbstractConstraint | None]:
    """The pins of a constraint, and the other parts, for which steps solve."""
    pins = [part for part in constraint.parts() if isinstance(part, AbstractPin)]
    if not pins:
        return [], constraint
    rest = [part for part in constraint.parts() if not isinstance(part, AbstractPin)]
    return pins, All(tuple(rest)) if rest else None


def equations(rest: AbstractConstraint | None, residual: Vector) -> Flags | None:
    """True in the rows that are equations; None if all are."""
    if rest is None:
        return None
    flags = rows_of(rest.inequality(), residual)
    if not any(jax.tree.leaves(flags)):
        return None
    return jax.tree.map(
        lambda c, flag: jnp.full_like(c, not flag, jnp.bool_), residual, flags
    )


class Rates(eqx.Module):
    """What a step does about the constraint.

    `violation` is the share of the violation that it removes. `share` is the share of
    the whole correction that it makes: less than one while training warms up, and None
    for one.
    """

    violation: Float[Array, ""]
    share: Float[Array, ""] | None = None


class Linearisation(eqx.Module):
    """A constraint and its derivative at a point.

    Pins are taken out: `pinned` says which parameters have a given value, and `gap` how
    far they are from it; both are None without pins. `jacobian` and `residual` are
    those of the other conditions, None if there are none. `equation` is True in the
    rows that are equations, and None if all are.
    """

    pinned: Flags | None
    gap: Vector | None
    jacobian: AbstractOperator | None
    residual: Vector | None
    equation: Flags | None

    @classmethod
    def of(
        cls, constraint: AbstractConstraint, params: Vector, args: tuple[Any, ...]
    ) -> "Linearisation":
        """Evaluate a constraint, and prepare products with its derivative."""
        pins, rest = split(constraint)
        pinned, gap = _pinned(pins, params, args)
        if rest is None:
            return cls(pinned, gap, None, None, None)
        residual = rest.residual(params, *args)
        require_residual(residual, rest)
        residual = jax.tree.map(jnp.asarray, residual)
        equation = equations(rest, residual)
        jacobian = rest.jacobian(params, *args).linearise()
        return cls(pinned, gap, jacobian, residual, equation)

    def free(self, vector: Vector, rates: Rates) -> Vector:
        """A step whose pinned entries are the rate times their gaps.

        During warm-up they are a mean of that and what the step had there.
        """
        if self.pinned is None:
            return vector

        def leaf(mask: Array, gap: Array, v: Array) -> Array:
            move = rates.violation.astype(v.dtype) * gap.astype(v.dtype)
            if rates.share is not None:
                move = v + rates.share.astype(v.dtype) * (move - v)
            return jnp.where(mask, move, v)

        return jax.tree.map(leaf, self.pinned, self.gap, vector)

    def roots(
        self, weights: Vector | None, params: Vector
    ) -> tuple[Vector | None, Float[Array, ""]]:
        """The square roots of weights of the parameters, and the largest weight.

        Weights are divided by the largest one before, lest small learning rates
        underflow. Roots are zero for what is pinned.
        """
        scale = jnp.ones((), tree.scalar_dtype(params))
        roots = None
        if weights is not None:
            largest = [
                jnp.max(_usable(w), initial=0).astype(scale.dtype)
                for w in jax.tree.leaves(weights)
            ]
            scale = jnp.max(jnp.stack(largest))
            inverse = tree.safe_reciprocal(scale)
            roots = jax.tree.map(
                lambda w: jnp.sqrt(_usable(w) * inverse.astype(w.dtype)), weights
            )
        if self.pinned is not None:
            roots = jax.tree.map(jnp.ones_like, params) if roots is None else roots
            roots = jax.tree.map(
                lambda m, r: jnp.where(m, jnp.zeros_like(r), r), self.pinned, roots
            )
        return roots, scale

    def target(self, image: Vector, rates: Rates) -> Vector:
        """What a correction of a step δ has to take away from `J δ`, the `image`.

        Then the violation falls by its rate, to first order. Inequalities that hold
        are not moved beyond zero.
        """

        def leaf(moved: Array, c: Array, equation: Array | None = None) -> Array:
            part = rates.violation.astype(c.dtype) * c
            if equation is not None:
                part = jnp.where(equation | (c > 0), part, c)
            total = moved + part
            return total if rates.share is None else rates.share.astype(c.dtype) * total

        rows = () if self.equation is None else (self.equation,)
        return jax.tree.map(leaf, image, self.residual, *rows)


def _usable(weights: Array) -> Array:
    """The weights, with zero for those that are not positive and finite."""
    usable = (weights > 0) & jnp.isfinite(weights)
    return jnp.where(usable, weights, jnp.zeros_like(weights))


def _pinned(
    pins: list[AbstractPin], params: Vector, args: tuple[Any, ...]
) -> tuple[Flags | None, Vector | None]:
    """All pinned entries and their gaps; the first pin of an entry counts."""
    mask, gap = None, None
    for pin in pins:
        own = pin.mask(params, *args)
        distance = tree.sub(pin.values(params, *args), params)
        if mask is None:
            mask, gap = own, distance
            continue
        gap = jax.tree.map(jnp.where, mask, gap, distance)
        mask = jax.tree.map(jnp.logical_or, mask, own)
    return mask, gap


def some_rows(rows: Flags | None, operator: AbstractOperator) -> AbstractOperator:
    """The operator, with zeros in rows that are False; None stands for all rows."""
    if rows is None:
        return operator
    dtypes = jax.tree.map(lambda s: s.dtype, operator.out_structure())
    return Mask(rows, dtypes) @ operator


def scaled_columns(
    operator: AbstractOperator, roots: Vector | None
) -> AbstractOperator:
    """The operator, its columns times factors; None stands for ones."""
    return operator if roots is None else operator @ Diagonal(roots)


def times(factors: Vector | None, vector: Vector) -> Vector:
    """The product, entry by entry; None stands for ones."""
    if factors is None:
        return vector
    return jax.tree.map(lambda f, v: f.astype(v.dtype) * v, factors, vector)


def select(rows: Flags | None, vector: Vector) -> Vector:
    """The vector, with zeros where the rows are False; None stands for all rows."""
    if rows is None:
        return vector
    return jax.tree.map(lambda m, v: jnp.where(m, v, jnp.zeros_like(v)), rows, vector)


def widen(vector: Any) -> Any:
    """A vector as arrays, in single precision at least."""

    def leaf(x: Any) -> Array:
        x = jnp.asarray(x)
        narrow = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
        return x.astype(jnp.float32) if narrow else x

    return jax.tree.map(leaf, vector)


def like(example: Any, vector: Vector) -> Any:
    """A vector, in the dtypes of another one."""
    return jax.tree.map(lambda e, v: v.astype(jnp.result_type(e)), example, vector)
