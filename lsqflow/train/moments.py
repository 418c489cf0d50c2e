"""The moments in the state of an optimiser, whatever it is wrapped in."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from .._tree import Vector


def covers(state: Any, params: Vector) -> bool:
    """Whether a state holds both moments of all parameters: Adam everywhere."""
    count = len(jax.tree.leaves(params))
    return all(len(select_field(state, name)) == count for name in ("mu", "nu"))


def select_field(state: Any, name: str) -> list[Array]:
    """All arrays in a state under a field of some name."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [leaf for path, leaf in leaves if _is_under(path, name)]


def moments_of(state: Any) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The first moments in a state, and the state for other ones."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(state)
    where = [i for i, (path, _) in enumerate(leaves) if _is_under(path, "mu")]
    values = [leaf for _, leaf in leaves]

    def rebuild(moments: list[Array]) -> Any:
        new = list(values)
        for i, moment in zip(where, moments, strict=True):
            new[i] = moment
        return jax.tree_util.tree_unflatten(treedef, new)

    return [values[i] for i in where], rebuild


def _is_under(path: Any, name: str) -> bool:
    return any(isinstance(k, jax.tree_util.GetAttrKey) and k.name == name for k in path)
