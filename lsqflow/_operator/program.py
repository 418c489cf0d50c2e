"""Traced functions that compare by what they compute, and can be pickled.

A Python closure is new each time it is defined, and with it every compilation that has
it as a static argument. A `Program` holds the traced form instead. It equals another
one when both consist of the same operations, so that compiled code is found again.
"""

import pickle
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _tree as tree
from .._jax import eval_jaxpr
from .._tree import Structure
from .script import Script, script_of


class _Code:
    """A jaxpr, compared and pickled by its script."""

    def __init__(self, jaxpr: Any, script: Script) -> None:
        self.jaxpr = jaxpr
        self.script = script
        self._hash = hash(script)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Code)
            and self._hash == other._hash
            and self.script == other.script
        )

    def __repr__(self) -> str:
        return f"<{len(self.jaxpr.eqns)} equations>"

    def __deepcopy__(self, memo: Any) -> "_Code":
        return self

    def __reduce__(self) -> Any:
        try:
            return _load, (pickle.dumps(self.script),)
        except Exception as error:
            msg = (
                f"An operator's function cannot be pickled: {error} Pickle what the "
                "operator was made from, and make it anew."
            )
            raise TypeError(msg) from error


def _load(data: bytes) -> _Code:
    script = pickle.loads(data)  # noqa: S301  by `pickle` itself
    return _Code(script.jaxpr(), script)


class Program(eqx.Module):
    """A function of pytrees, traced; what it closed over are its leaves."""

    consts: list[Array]
    code: _Code = eqx.field(static=True)
    structures: tree.StaticStructure = eqx.field(static=True, repr=False)

    @classmethod
    def trace(cls, fn: Callable[..., Any], *structures: Structure) -> "Program":
        """Trace `fn` at arguments of the given structures."""
        # Behind a lambda: JAX compares bound methods of modules by their leaves.
        plain = lambda *args: fn(*args)  # noqa: PLW0108
        closed, out = jax.make_jaxpr(plain, return_shape=True)(*structures)
        return cls(
            consts=[jnp.asarray(c) for c in closed.consts],
            code=_Code(closed.jaxpr, script_of(closed.jaxpr, is_open=True)),
            structures=tree.StaticStructure((structures, tree.structure(out))),
        )

    @property
    def out_structure(self) -> Structure:
        """The structure of the result."""
        return self.structures.tree[1]

    def __call__(self, *args: Any) -> Any:
        jaxpr, values = self.code.jaxpr, [*self.consts, *jax.tree.leaves(args)]
        count = len(jaxpr.constvars)  # a loaded one takes them as arguments
        out = eval_jaxpr(jaxpr, values[:count], *values[count:])
        return jax.tree.unflatten(jax.tree.structure(self.out_structure), out)
