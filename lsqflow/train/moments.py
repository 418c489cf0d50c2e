"""The moments in the state of an optimizer, whatever it is wrapped in.

`optax.tree_utils` finds a field of a state by its name, through chains and wrappers. It
finds every entry of that name. So two things are decided here: parameters may have a
field of the same name (`mu` of a normal distribution), and a state may have several
moments, one for each group of `optax.partition`. In what order groups and parameters
correspond is not known, so moments in groups count as not found.
"""

from typing import Any

import jax
import optax.tree_utils as otu

from .. import _tree as tree
from .._tree import Vector


def moment(state: Any, params: Vector, name: str) -> Vector | None:
    """The field of a state that is like the parameters; None if there is not one."""
    found = [x for _, x in otu.tree_get_all_with_path(state, name, _in_a_state)]
    if len(found) != 1 or jax.tree.structure(found[0]) != jax.tree.structure(params):
        return None
    return found[0]


def with_moment(state: Any, name: str, value: Vector) -> Any:
    """A state with another value of a field that `moment` has found."""
    return otu.tree_set(state, _in_a_state, **{name: value})


def add_to_momentum(state: Any, params: Vector, change: Vector) -> Any:
    """A state with a vector added to its first moment or trace, if it has one."""
    for name in ("mu", "trace"):
        old = moment(state, params, name)
        if old is not None:
            change = jax.tree.map(lambda m, d: d.astype(m.dtype), old, change)
            return with_moment(state, name, tree.add(old, change))
    return state


def _in_a_state(path: tuple[Any, ...], value: Any) -> bool:
    """Whether a field belongs to a state of Optax, and not to the parameters."""
    del value
    return bool(path) and isinstance(path[-1], otu.NamedTupleKey)
