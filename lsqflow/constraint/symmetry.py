"""Models that respect the elements of a symmetry group."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._operator.composite import same_structure
from .._operator.display import brief
from .base import AbstractConstraint
from .inputs import require_function, take


class Equivariance(AbstractConstraint):
    r"""`ρ(g) f(θ, x) = f(θ, g x)`, for elements g of a group and points x of a step.

    The residual is the difference of the two sides. It is zero if and only if the model
    respects these elements at these points. For a finite group, give all elements. For
    a larger one, draw some at each step.

    ```python
    quarter_turns = range(1, 4)
    turn = lambda k, images: jnp.rot90(images, k, axes=(1, 2))
    constraint = lf.Equivariance(apply, quarter_turns, turn)  # invariant
    constraint = lf.Equivariance(segment, quarter_turns, turn, turn)  # equivariant


    def sampler(key):  # any angle
        points, angles = jax.random.split(key)
        return data(points), jax.random.uniform(angles, (4,), maxval=2 * jnp.pi)


    lf.Sampled(lf.Equivariance(apply, None, rotate), sampler, jax.random.key(0))
    ```

    Leave the identity out: it asks for nothing, and costs rows of zeros. `violation` is
    the root mean square of the difference, divided by that of the outputs. So a large
    constant in the outputs makes it small.

    **Shapes:** the residual is like the output of the model, with an axis of elements
    in front; its norm is the root mean square of the difference.

    **Cost:** one evaluation of the model for each element, in one batch, and one more.
    """

    apply: Callable[[Any, Any], PyTree[Array]]
    group: Any
    action: Callable[[Any, Any], Any]
    out_action: Callable[[Any, Any], Any] | None

    def __init__(
        self,
        apply: Callable[[Any, Any], PyTree[Array]],
        group: Any,
        action: Callable[[Any, Any], Any],
        out_action: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        """**Arguments:**

        - `apply`: the model, `apply(params, x)` on a batch of points.
        - `group`: the elements. A sequence (list, tuple, range) of anything that the
            actions understand; or an array, or another pytree of arrays, with the
            elements along the first axis; or None, if they come at each step, after the
            points.
        - `action`: `action(g, x)`, what an element does to a batch of points.
        - `out_action`: `out_action(g, y)`, what it does to the outputs; by default
            nothing, for a model that should be invariant.

        **Raises:** `ValueError` if the group is empty, `TypeError` if a function is
        none. The methods raise `ValueError` if the actions change the shape of the
        outputs, and `TypeError` if there are no points.
        """
        require_function(apply, "apply", "Equivariance", "lambda params, x: ...")
        require_action(action, out_action, "Equivariance")
        self.apply = apply
        self.group = None if group is None else _elements(group)
        self.action = action
        self.out_action = out_action

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`ρ(g) f(θ, x) − f(θ, g x)`."""
        return scaled(tree.sub(*self._sides(params, args)))

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """Root mean square of the difference, relative to that of the outputs."""
        want, got = self._sides(params, args)
        return relative(tree.sub(want, got), want)

    def _sides(self, params: PyTree[Array], args: tuple[Any, ...]) -> tuple[Any, Any]:
        owner = "`lsqflow.Equivariance`"
        if self.group is None:
            x, group = take(args, ("points", "elements of the group"), owner)
            group = _elements(group)
        else:
            (x,), group = take(args, ("points",), owner), self.group
        y = self.apply(params, x)
        want = _each(self.out_action or unmoved, group, y)
        # One batch: the model is compiled once, however many elements there are.
        got = jax.vmap(lambda z: self.apply(params, z))(_each(self.action, group, x))
        require_equal(want, got)
        return want, got


def _elements(group: Any) -> Any:
    """A tuple of elements, or a pytree of arrays with the elements in front."""
    if isinstance(group, Sequence):
        group = tuple(group)
        fits = bool(group)
    else:
        group = jax.tree.map(jnp.asarray, group)
        lengths = {x.shape[:1] for x in jax.tree.leaves(group)}
        fits = len(lengths) == 1 and not lengths & {(), (0,)}
    if not fits:
        raise ValueError(
            "A group must be a sequence of elements, or arrays that have them along "
            f"their first axis, one at least; got {brief(group)}."
        )
    return group


def _each(action: Callable[[Any, Any], Any], group: Any, x: Any) -> Any:
    """What each of the elements does to `x`, along a new first axis."""
    if isinstance(group, tuple):
        moved = [action(g, x) for g in group]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)
    return jax.vmap(action, (0, None))(group, x)


def require_action(action: Any, out_action: Any, owner: str) -> None:
    """Raise a `TypeError` unless both are functions; the second may be None."""
    example = "lambda g, x: x @ g.T"
    require_function(action, "action", owner, example)
    if out_action is not None:
        require_function(out_action, "out_action", owner, example)


def unmoved(_: Any, y: Any) -> Any:
    """The trivial action."""
    return y


def require_equal(want: Any, got: Any) -> None:
    """Raise a `ValueError` unless the two sides of the equation can be compared."""
    want, got = tree.structure(want), tree.structure(got)
    if not same_structure(got, want):
        raise ValueError(
            "The model must return at moved points what its moved output is, "
            f"{brief(want)}; it returns {brief(got)}. Check `action` and `out_action`: "
            "they keep shapes and dtypes."
        )


def scaled(difference: PyTree[Array]) -> PyTree[Array]:
    """Scaled so that the norm is the root mean square of the entries."""
    size = max(tree.size(difference), 1)
    return jax.tree.map(lambda x: x / math.sqrt(size), difference)


def relative(difference: PyTree[Array], outputs: PyTree[Array]) -> Float[Array, ""]:
    """The ratio of two root mean squares; zero if the outputs are."""
    size = tree.norm(scaled(outputs))
    return tree.norm(scaled(difference)) * tree.safe_reciprocal(size)
