"""What the metric of an optimizer is: the protocol, and its names in a state."""

import abc
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .._tree import Vector

Scalar = Float[Array, ""]
Update = Callable[[Vector, Any], tuple[Vector, Any]]


class MetricForm(eqx.Enumeration):
    """Which metric a constrained optimizer uses; each value is a text.

    `lf.train.MetricForm[state.form]` is the text for a
    [`NullSpaceState`][lsqflow.NullSpaceState].
    """

    adam = (
        "The diagonal by which updates of the Adam family scale the first moment: one "
        "solve a step."
    )
    sgd = "The learning rate of the SGD family, the same everywhere: one solve a step."
    euclidean = "All parameters count alike: one solve a step."
    given = "A diagonal that the user gave: one solve a step."
    none = (
        "No diagonal is known: gradients are projected before the optimizer sees them "
        "and updates after it, two solves a step."
    )


class OptimizerStep(eqx.Module):
    """One step of the optimizer inside `null_space`: what a metric can be read off.

    **Attributes:**

    - `update`: `update(gradient, state) -> (updates, new_state)`, the optimizer. It may
        be differentiated.
    - `gradient`: what the optimizer was given.
    - `before`, `after`: its states before and after the step.
    - `params`: the parameters, in single precision at least.
    """

    update: Update
    gradient: Vector
    before: Any
    after: Any
    params: Vector


class AbstractMetric(eqx.Module):
    r"""How a constrained optimizer measures the length of a step.

    A correction of a step is the shortest one in $\|\delta\|_M^2 = \sum_i M_i
    \delta_i^2$. The metric decides where training ends: see
    [the guide](index.md#where-the-projection-sits). Subclass it with `read` for an
    optimizer of your own, and pass an instance as `metric=` to
    [`lsqflow.null_space`][].
    """

    @abc.abstractmethod
    def read(self, step: OptimizerStep) -> tuple[PyTree[Array], Scalar | None]:
        """The inverse of the diagonal, and the step size in that metric.

        **Returns:** first $W = 1 / M$, positive, a pytree like the parameters. Then a
        number s if it is known, otherwise None: a gradient g that stays the same moves
        the optimizer by −s W g, once its momentum has no part normal to the constraint.
        Where s is known, momentum is projected together with the step. Multipliers are
        those of the step divided by s.
        """

    def adjust(self, proposal: Vector, weights: Vector) -> tuple[Vector, Vector]:
        """The proposed step and `W`, changed where the metric has limits."""
        return proposal, weights

    def require(self, inner_state: Any, params: PyTree[Array]) -> None:
        """Raise a `ValueError` if it cannot be read off such a state."""

    def form(self) -> MetricForm:
        """What the state of the training shows."""
        return MetricForm.given


Choice = (
    Literal["auto", "optimizer"]
    | AbstractMetric
    | Callable[[PyTree[Array], Any], PyTree[Array]]
    | None
)


def step_size(proposal: Vector, gradient: Vector, weights: Vector) -> Scalar:
    """An estimate of `s` in Δ ≈ −s W g, by least squares."""
    scaled = jax.tree.map(jnp.multiply, weights, gradient)
    squared = tree.inner(gradient, scaled)
    return -tree.inner(proposal, gradient) * tree.safe_reciprocal(squared)
