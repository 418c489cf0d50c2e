"""What a constrained optimiser remembers."""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._outcome import StopReason, result_of
from .._tree import Vector
from ..constraint.base import AbstractConstraint
from .linearisation import Flags, equations, split, widen

Scalar = Float[Array, ""]


class NullSpaceState(NamedTuple):
    """The state of [`lsqflow.null_space`][].

    **Attributes:**

    - `count`: how many steps have been taken.
    - `inner_state`: the state of the wrapped optimiser.
    - `violation`: of the constraint, at the parameters the last step started from;
        infinite before the first one.
    - `multipliers`: estimates of the Lagrange multipliers μ, ∇f + Jᵀμ = 0 at a
        solution, with the structure of the residual without pins; None if the
        constraint only pins parameters. Where the violation is what mainly moves the
        parameters, with several rows, they are rough. For Nesterov
        variants of Adam they are too large by about 1 / b1.
    - `correction`: the dual of the last correction, which starts the next.
    - `active`: which rows were held in the last step; None without inequalities.
    - `num_steps`: of the solver, in the last step, both solves taken together.
    - `stop_reason`: how the last solve ended, a [`lsqflow.StopReason`][].
    """

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    inner_state: Any
    violation: Scalar
    multipliers: Vector | None
    correction: Vector | None
    active: Flags | None
    num_steps: Int[Array, ""]
    stop_reason: StopReason

    @property
    def result(self) -> lx.RESULTS:
        """How the last step went: successful, or why it cannot be trusted."""
        return result_of(self.stop_reason)


def first_state(
    constraint: AbstractConstraint,
    args: tuple[Any, ...],
    params: Any,
    inner_state: Any,
) -> NullSpaceState:
    """The state before the first step; `args` may be structures."""
    params = widen(params)
    multipliers, active = _shapes(constraint, params, args)
    trivial = jnp.array(True)
    return NullSpaceState(
        count=jnp.zeros((), jnp.int32),
        inner_state=inner_state,
        violation=jnp.full((), jnp.inf, tree.scalar_dtype(params)),
        multipliers=multipliers,
        correction=multipliers,
        active=active,
        num_steps=jnp.zeros((), jnp.int32),
        stop_reason=StopReason.where(trivial, StopReason.trivial, StopReason.trivial),
    )


def _shapes(
    constraint: AbstractConstraint, params: Vector, args: tuple[Any, ...]
) -> tuple[Vector | None, Flags | None]:
    """Zeros like the multipliers, and which of them are held at first."""

    def evaluate(params: Vector, args: Any) -> Any:
        rest = split(constraint.at(0))[1]
        return None if rest is None else rest.residual(params, *args)

    try:
        structure = eqx.filter_eval_shape(evaluate, params, args)
    except TypeError as error:
        raise TypeError(
            "The constraint could not be evaluated at the parameters"
            + (
                ". "
                if args
                else " alone. If it takes further arguments, give examples "
                "of them: `lsqflow.null_space(..., constraint_args=(batch,))`. "
            )
            + f"The error was: {error}"
        ) from error
    if structure is None:
        return None, None
    zeros = tree.zeros(tree.structure(structure))
    return zeros, equations(split(constraint)[1], zeros)


def require_same(residual: Vector | None, multipliers: Vector | None) -> None:
    """Raise a `ValueError` if a residual has not the structure the state is for."""
    got, expected = tree.structure(residual), tree.structure(multipliers)
    if tree.StaticStructure(got) != tree.StaticStructure(expected):
        raise ValueError(
            "The residual of the constraint changed its shape: the state was made for "
            f"{expected}, now it is {got}. Pass `constraint_args` of the same shapes "
            "at each step, and to `lsqflow.null_space`."
        )
