"""Traced functions that compare by what they compute.

A Python closure is new each time it is defined, and with it every compilation that has
it as a static argument. A `Program` holds the traced form instead, which equals another
one when both consist of the same operations, so that compiled code is found again.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import _tree as tree
from .._jax import eval_jaxpr
from .._tree import Structure


class _Code:
    """A closed jaxpr, compared by structure."""

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr
        self._key = _fingerprint(jaxpr)[:3]
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Code) and self._key == other._key

    def __repr__(self) -> str:
        return f"<{len(self.jaxpr.eqns)} equations>"


def _fingerprint(jaxpr: Any) -> tuple[Any, ...]:
    """A nested tuple that is equal for jaxprs that compute the same.

    Whatever cannot be compared by value is compared by identity, which at worst
    compiles once more.
    """
    jaxpr, consts = getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())
    number: dict[Any, int] = {}

    def atom(x: Any) -> Any:
        if hasattr(x, "val"):
            return ("literal", str(x.aval), _value(x.val))
        return number.setdefault(x, len(number))

    head = tuple((atom(v), str(v.aval)) for v in (*jaxpr.constvars, *jaxpr.invars))
    body = tuple(
        (
            eqn.primitive,
            tuple(atom(x) for x in eqn.invars),
            tuple((atom(x), str(x.aval)) for x in eqn.outvars),
            tuple((name, _value(eqn.params[name])) for name in sorted(eqn.params)),
            str(eqn.ctx),
        )
        for eqn in jaxpr.eqns
    )
    return head, body, tuple(atom(x) for x in jaxpr.outvars), _value(tuple(consts))


def _value(x: Any) -> Any:
    if hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns"):
        return _fingerprint(x)
    if isinstance(x, tuple | list):
        return (type(x).__name__, *map(_value, x))
    if isinstance(x, np.ndarray | np.generic):
        return (x.shape, str(x.dtype), x.tobytes())
    if isinstance(x, float):
        return ("float", np.float64(x).tobytes())  # NaN equals NaN, 0.0 is not -0.0
    try:
        hash(x)
    except TypeError:
        return _Identity(x)
    return (type(x).__name__, x)


class _Identity:
    """Keeps an unhashable object alive and compares it by identity."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __hash__(self) -> int:
        return id(self.x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.x is other.x


class Program(eqx.Module):
    """A function of pytrees, traced; what it closed over are its leaves."""

    consts: list[Array]
    code: _Code = eqx.field(static=True)
    structures: tree.StaticStructure = eqx.field(static=True, repr=False)

    @classmethod
    def trace(cls, fn: Callable[..., Any], *structures: Structure) -> "Program":
        """Trace `fn` at arguments of the given structures."""
        closed, out = jax.make_jaxpr(fn, return_shape=True)(*structures)
        return cls(
            consts=[jnp.asarray(c) for c in closed.consts],
            code=_Code(closed.jaxpr),
            structures=tree.StaticStructure((structures, tree.structure(out))),
        )

    @property
    def out_structure(self) -> Structure:
        """The structure of the result."""
        return self.structures.tree[1]

    def __call__(self, *args: Any) -> Any:
        out = eval_jaxpr(self.code.jaxpr, self.consts, *jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(self.out_structure), out)
