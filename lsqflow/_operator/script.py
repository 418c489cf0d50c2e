"""Traced functions written down as data: to compare, to pickle, and to run again.

A jaxpr compares by identity and cannot be pickled. A `Script` has the same steps as
plain tuples. Two scripts are equal when they compute the same by the same steps. That
includes rules of derivatives: those of `jax.custom_jvp` and `jax.custom_vjp` are traced
and written down as well.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._jax import bind, is_plain_jit, primitive_named
from .._linear_map import linear_map_p
from .literal import Constant, Slot, Tree, Unknown, restored, value_of
from .rule import cotangents, is_inexact, tangents, with_rule


@dataclasses.dataclass(frozen=True)
class Kind:
    """The type of a value; `text` has what only a comparison needs: where it lives."""

    shape: tuple[int, ...]
    dtype: Any
    weak_type: bool
    text: str

    @classmethod
    def of(cls, aval: Any) -> "Kind":
        weak = getattr(aval, "weak_type", False)
        return cls(aval.shape, aval.dtype, weak, str(aval))

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """The type as JAX takes it."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype, weak_type=self.weak_type)


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation: numbers of the values it takes, or constants, and of its results.

    `derivative` is that of a function with a rule of its own: a script of primals and
    tangents, or cotangents; or a number, for a function that its own rule calls.
    """

    operation: "Operation"
    params: tuple[tuple[str, Any], ...]
    inputs: tuple[Any, ...]
    outputs: tuple[tuple[int, Kind], ...]
    context: str
    derivative: "Script | int | None" = None


@dataclasses.dataclass(frozen=True)
class Script:
    """The steps of a jaxpr. The first values are its constants and its arguments."""

    kinds: tuple[Kind, ...]
    constants: tuple[Any, ...]
    steps: tuple[Step, ...]
    results: tuple[Any, ...]
    is_open: bool

    def run(self, args: Sequence[Any], callers: tuple[Any, ...]) -> list[Any]:
        """The results, by binding each step anew; `callers` have rules that run it."""
        values = dict(enumerate((*map(restored, self.constants), *args)))
        get = lambda x: values[x] if isinstance(x, int) else restored(x)
        for step in self.steps:
            outputs = _run_step(step, list(map(get, step.inputs)), callers)
            for (number, _), output in zip(step.outputs, outputs, strict=True):
                values[number] = output
        return list(map(get, self.results))

    def jaxpr(self, callers: tuple[Any, ...] = ()) -> Any:
        """The script as a jaxpr again."""
        kinds = self.kinds[len(self.constants) :]
        run = lambda *args: self.run(args, callers)
        closed = jax.make_jaxpr(run)(*(kind.struct for kind in kinds))
        return closed.jaxpr if self.is_open else closed


@dataclasses.dataclass(frozen=True)
class Operation:
    """A primitive of JAX, pickled by its name."""

    primitive: Any

    @property
    def name(self) -> str:
        """The name, by which it is found again."""
        return self.primitive.name

    def __reduce__(self) -> Any:
        if _operation(self.name) != self:
            raise TypeError(f"the operation `{self.name}` is not one of JAX's own.")
        return _operation, (self.name,)


def _operation(name: str) -> Operation:
    return Operation(
        linear_map_p if name == linear_map_p.name else primitive_named(name)
    )


def script_of(
    jaxpr: Any, callers: tuple[Any, ...] = (), *, is_open: bool = False
) -> Script:
    """Write down a jaxpr; an open one takes its constants as arguments."""
    is_open = is_open or not hasattr(jaxpr, "consts")
    constants = () if is_open else tuple(map(value_of, jaxpr.consts))
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    numbers: dict[Any, int] = {}

    def atom(x: Any) -> Any:
        if hasattr(x, "val"):
            return Constant(value_of(x.val), x.aval.dtype)
        return numbers.setdefault(x, len(numbers))

    first = (*jaxpr.constvars, *jaxpr.invars)
    kinds = tuple(Kind.of(v.aval) for v in first)
    for v in first:
        atom(v)
    steps = tuple(_step(eqn, atom, callers) for eqn in jaxpr.eqns)
    return Script(kinds, constants, steps, tuple(map(atom, jaxpr.outvars)), is_open)


def _step(eqn: Any, atom: Callable[[Any], Any], callers: tuple[Any, ...]) -> Step:
    name, params, derivative = eqn.primitive.name, eqn.params, None
    if name in ("custom_jvp_call", "custom_vjp_call"):
        call = script_of(params["call_jaxpr"])
        if (name, call) in callers:
            derivative = callers.index((name, call))
        else:
            derivative = _derivative(eqn, (*callers, (name, call)))
        params = {"call": call}
    elif eqn.primitive is linear_map_p:
        slots = map(Slot, range(len(eqn.invars)))
        params = {"linear_map": Tree(params["split"].join(list(slots)))}
    elif name == "jit" and is_plain_jit(params):
        params = {"plain": params["jaxpr"]}
    return Step(
        Operation(eqn.primitive),
        tuple((key, _param(params[key], callers)) for key in sorted(params)),
        tuple(map(atom, eqn.invars)),
        tuple((atom(x), Kind.of(x.aval)) for x in eqn.outvars),
        str(eqn.ctx),
        derivative,
    )


def _param(x: Any, callers: tuple[Any, ...]) -> Any:
    if isinstance(x, Script | Tree):
        return x
    is_jaxpr = hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")
    if is_jaxpr:
        return script_of(x, callers)
    return value_of(x, lambda item: _param(item, callers))


def _derivative(eqn: Any, callers: tuple[Any, ...]) -> Any:
    """What the rule computes, by tracing it for all inputs that may move."""
    function = lambda *args: bind(eqn.primitive, eqn.params, args)
    primals = [Kind.of(x.aval).struct for x in eqn.invars]
    if eqn.primitive.name == "custom_jvp_call":
        rule, others = tangents, eqn.invars
    else:
        rule, others = cotangents, eqn.outvars
    moving = [Kind.of(x.aval).struct for x in others if is_inexact(x.aval)]
    try:
        traced = jax.make_jaxpr(lambda *args: rule(function, *args))(primals, moving)
    except Exception:  # noqa: BLE001  a rule that refuses some of them
        return Unknown(eqn.params)
    return script_of(traced, callers)


def _run_step(step: Step, inputs: list[Any], callers: tuple[Any, ...]) -> Any:
    params = dict(step.params)
    if "call" in params:
        if isinstance(step.derivative, int):
            return callers[step.derivative](*inputs)
        call, rule = params["call"], step.derivative
        assert rule is not None  # noqa: S101
        function = with_rule(
            lambda *args: call.run(args, ()),
            lambda itself, *args: rule.run(args, (*callers, itself)),
            forward=step.operation.name == "custom_jvp_call",
        )
        return function(*inputs)
    if "plain" in params:
        return jax.jit(lambda *args: params["plain"].run(args, callers))(*inputs)
    if "linear_map" in params:
        linear_map, arg = params["linear_map"].filled(inputs)
        return jax.tree.leaves(linear_map(arg))
    again = lambda x: x.jaxpr(callers) if isinstance(x, Script) else restored(x, again)
    restored_params = {name: again(x) for name, x in params.items()}
    return bind(step.operation.primitive, restored_params, inputs)
