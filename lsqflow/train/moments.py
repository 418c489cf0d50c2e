"""The moments in the state of an optimiser, whatever it is wrapped in."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from .._tree import Vector


def covers(state: Any, params: Vector) -> bool:
    """Whether a state holds both moments of all parameters: Adam everywhere."""
    return all(_positions(state, params, name) for name in ("mu", "nu"))


def moments_of(
    state: Any, params: Vector
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The first moments in a state, and the state for other ones."""
    return _field_of(state, _positions(state, params, "mu"))


def add_to_momentum(state: Any, params: Vector, change: Vector) -> Any:
    """A state with a vector added to its first moment or trace, if it has one."""
    for name in ("mu", "trace"):
        where = _positions(state, params, name)
        if where:
            old, rebuild = _field_of(state, where)
            pairs = zip(old, jax.tree.leaves(change), strict=True)
            return rebuild([m + d.astype(m.dtype) for m, d in pairs])
    return state


def _positions(state: Any, params: Vector, name: str) -> list[int]:
    """Where among the leaves of a state a field is that is like the parameters.

    Empty if there is none, or more than one: then its order is not known.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    where, owners = [], set()
    for i, (path, _) in enumerate(leaves):
        names = [getattr(key, "name", None) for key in path]
        if name in names:
            where.append(i)
            owners.add(path[: names.index(name)])
    fits = len(owners) == 1 and len(where) == len(jax.tree.leaves(params))
    return where if fits else []


def _field_of(
    state: Any, where: list[int]
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    values, treedef = jax.tree.flatten(state)

    def rebuild(field: list[Array]) -> Any:
        new = list(values)
        for i, x in zip(where, field, strict=True):
            new[i] = x
        return jax.tree.unflatten(treedef, new)

    return [values[i] for i in where], rebuild
