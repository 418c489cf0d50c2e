"""What a constrained optimizer remembers."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, Int

from .. import _tree as tree
from .._jax import explicit_sharding, is_traced, reshard_as, reshard_like
from .._outcome import StopReason, result_of
from .._tree import Vector
from ..constraint.base import AbstractConstraint
from ..constraint.inputs import described, require_parameters, require_residual
from .compiled import Compiled
from .inputs import explained, require_gradient, require_tuple
from .linearisation import Flags, equations, split, widen
from .metric import MetricForm

Scalar = Float[Array, ""]


class NullSpaceState(NamedTuple):
    """The state of [`lsqflow.null_space`][].

    **Attributes:**

    - `count`: how many steps have been taken.
    - `inner_state`: the state of the wrapped optimizer.
    - `violation`: of the constraint, at the parameters the last step started from;
        infinite before the first one.
    - `multipliers`: estimates of the Lagrange multipliers μ, ∇f + Jᵀμ = 0 at a
        solution. They have the structure of the residual, without pins; None if the
        constraint only pins parameters. They are rough for several rows while a
        violation is what mainly moves the parameters. For Nesterov variants of Adam
        they are too large by about 1 / b1.
    - `correction`: the dual of the last correction. The next solve starts from it.
    - `active`: which rows were held in the last step; None without inequalities.
    - `num_steps`: steps of the solver in the last step, over all its solves.
    - `stop_reason`: how the last solve ended, a [`lsqflow.StopReason`][].
    - `form`: the metric in use, a [`MetricForm`][lsqflow.train.MetricForm];
        `lf.train.MetricForm[state.form]` is a text.
    """

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    inner_state: Any
    violation: Scalar
    multipliers: Vector | None
    correction: Vector | None
    active: Flags | None
    num_steps: Int[Array, ""]
    stop_reason: StopReason
    form: MetricForm

    @property
    def result(self) -> lx.RESULTS:
        """How the last step went: successful, or why it cannot be trusted."""
        return result_of(self.stop_reason)


def first_state(
    constraint: AbstractConstraint,
    args: tuple[Any, ...],
    params: Any,
    inner_state: Any,
    form: MetricForm,
) -> NullSpaceState:
    """The state before the first step; `args` may be structures."""
    params = widen(params)
    rest = split(constraint.at(0))[1]
    multipliers = correction = active = None
    if rest is not None:
        evaluate = lambda params: _zeros(rest, params, args)
        with explained(params):
            if any(map(explicit_sharding, jax.tree.leaves(params))):
                # On an explicit mesh, types of residuals are known to programs only.
                evaluate = Compiled(evaluate)
            multipliers, correction, active = evaluate(params)
    return distinct(
        NullSpaceState(
            count=jnp.zeros((), jnp.int32),
            inner_state=inner_state,
            violation=jnp.full((), jnp.inf, tree.scalar_dtype(params)),
            multipliers=multipliers,
            correction=correction,
            active=active,
            num_steps=jnp.zeros((), jnp.int32),
            stop_reason=_array_of(StopReason, StopReason.trivial),
            form=_array_of(MetricForm, form),
        )
    )


def _array_of(kind: Any, item: Any) -> Any:
    """A member of an enumeration, as an array that a loop can carry."""
    return kind.where(jnp.array(True), item, item)


def _zeros(
    rest: AbstractConstraint, params: Vector, args: tuple[Any, ...]
) -> tuple[Vector, Vector, Flags | None]:
    """Twice zeros like the residual, and which rows are held at first."""
    structure = eqx.filter_eval_shape(rest.residual, params, *args)
    require_residual(structure, rest)
    for leaf in jax.tree.leaves(structure):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(
                f"The residual of `{type(rest).__name__}` is {described(leaf)}, which "
                "does not depend on the parameters. Compute it from them with "
                "`jax.numpy`, without `float(...)` or `.item()`."
            )
    zeros = lambda: jax.tree.map(
        lambda s: reshard_as(jnp.zeros(s.shape, s.dtype), s), structure
    )
    return zeros(), zeros(), equations(rest, zeros())


def distinct(state: Any) -> Any:
    """A state in which no array stands twice, so that its memory can be donated."""
    seen = set()

    def leaf(x: Any) -> Any:
        if not eqx.is_array(x) or is_traced(x):
            return x
        if id(x) in seen:
            return jnp.array(x, copy=True)
        seen.add(id(x))
        return x

    return jax.tree.map(leaf, state)


def require_update(updates: Any, state: Any, params: Any, args: Any) -> None:
    """Raise a `TypeError` or `ValueError` unless arguments of `update` fit."""
    if params is None:
        raise ValueError(
            "`lsqflow.null_space` needs the parameters to evaluate its constraint: "
            "call `update(gradients, state, params)`."
        )
    if not isinstance(state, NullSpaceState):
        got = f"a {type(state).__name__}"
        for x, place in ((updates, "first"), (params, "third")):
            if isinstance(x, NullSpaceState):
                got = f"it as the {place}"
        raise TypeError(
            "The second argument of `update` must be the state that `init` or the last "
            f"`update` returned; got {got}. The order of arguments is "
            "`update(gradients, state, params)`."
        )
    require_tuple(args)
    require_parameters(params, "`lsqflow.null_space`")
    require_gradient(updates, params)


def like_residual(state: NullSpaceState, residual: Vector | None) -> NullSpaceState:
    """The state, on an explicit mesh with its duals where the residual lives.

    **Raises:** `ValueError` if a residual has not the structure the state is for.
    """
    got, expected = tree.structure(residual), tree.structure(state.multipliers)
    if tree.StaticStructure(got) != tree.StaticStructure(expected):
        raise ValueError(
            "The residual of the constraint changed its shape: the state was made for "
            f"{expected}, now it is {got}. Pass `constraint_args` of the same shapes "
            "at each step, and to `lsqflow.null_space`."
        )
    move = lambda x: None if x is None else reshard_like(x, lambda: residual)
    return state._replace(
        multipliers=move(state.multipliers),
        correction=move(state.correction),
        active=move(state.active),
    )
