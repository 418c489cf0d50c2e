"""Functions that compile once, also for users who do not compile their loops.

`jax.jit` compiles a function again when the same lines of Python define it again, in a
loop or a cell of a notebook. Here it is traced again, which takes a tenth of a second,
and the program is then found by its text.
"""

import collections
import hashlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._jax import is_traced

# Compiled programs by their text, and programs of one function by its arguments.
_CAPACITY = 64
# Programs with more bytes of constants are not printed to be compared.
_MAX_CONSTANTS = 2**20
_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)


class Compiled:
    """A function of pytrees, compiled.

    Arrays of JAX are inputs of the program; all else in the arguments is part of it.
    So new arrays compile nothing, and neither does an equal function defined anew.
    Under another transformation of JAX this is `jax.jit`.

    A function that looks at the values of its arguments, as some optimizers do that
    are written for Python loops, cannot be traced and runs as it stands.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        """**Arguments:**

        - `function`: from pytrees to a pytree, without side effects.
        """

        def flat(arrays: list[Any], static: "_Static") -> tuple[Any, Any]:
            out = function(*static.with_arrays(arrays))
            return _Static.split(out, eqx.is_array)

        self._function = function
        # Arrays that are not used say on which devices the program runs.
        self._jit = jax.jit(flat, static_argnums=1, keep_unused=True)
        self._programs = _Recent()

    def __call__(self, *args: Any) -> Any:
        """The value of the function."""
        if getattr(jax.config, "jax_disable_jit", False):
            return self._function(*args)
        arrays, static = _Static.split(args, _is_jax_array)
        try:
            hash(static)
        except TypeError:
            # A class that users wrote has a static field that cannot be compared.
            return self._function(*args)
        if any(map(is_traced, arrays)):
            return _join(self._jit(arrays, static))
        try:
            traced = self._jit.trace(arrays, static)
        except _UNTRACEABLE:
            return self._function(*args)
        if len(traced.jaxpr.in_avals) > len(arrays):
            # The function closes over tracers of a transformation around it.
            return _join(self._jit(arrays, static))
        shardings = tuple(x.sharding for x in arrays)
        # JAX keeps the jaxpr as long as it is valid; so it stands for shapes and
        # settings. The entry keeps it alive, lest its number be given away.
        key = (id(traced.jaxpr), shardings)
        _, program = self._programs.get(
            key, lambda: (traced.jaxpr, _compile(traced, shardings))
        )
        return _join(program(arrays))


def numbers_as_arrays(tree: Any) -> Any:
    """A pytree with arrays in place of numbers of Python and of arrays of NumPy.

    Booleans stay: they choose between programs.
    """

    def leaf(x: Any) -> Any:
        number = isinstance(x, int | float | complex) and not isinstance(x, bool)
        if number or (isinstance(x, np.ndarray | np.generic) and x.dtype != object):
            return jnp.asarray(x)
        return x

    return jax.tree.map(leaf, tree)


class _Static(eqx.Module):
    """What a pytree has besides arrays, as a pytree without leaves."""

    treedef: Any = eqx.field(static=True)
    leaves: tuple[Any, ...] = eqx.field(static=True)

    @classmethod
    def split(
        cls, tree: Any, is_array: Callable[[Any], bool]
    ) -> tuple[list[Any], "_Static"]:
        """The arrays of a pytree, and all else."""
        leaves, treedef = jax.tree.flatten(tree)
        arrays = [x for x in leaves if is_array(x)]
        rest = (None if is_array(x) else _Leaf(x) for x in leaves)
        return arrays, cls(treedef, tuple(rest))

    def with_arrays(self, arrays: list[Any]) -> Any:
        """The pytree with these arrays."""
        rest = iter(arrays)
        leaves = [next(rest) if x is None else x.value for x in self.leaves]
        return jax.tree.unflatten(self.treedef, leaves)

    def __hash__(self) -> int:
        return hash((self.treedef, self.leaves))


class _Leaf:
    """A leaf that is no array, compared by type and value; by identity if need be."""

    def __init__(self, x: Any) -> None:
        self.value = x
        self._key = (type(x), x)
        try:
            self._hash = hash(self._key)
        except TypeError:
            self._key = (type(x), id(x))
            self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Leaf) and self._key == other._key


class _Recent:
    """A dictionary of what was used most recently."""

    def __init__(self) -> None:
        self._entries: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The entry of a key, made if there is none."""
        if key not in self._entries:
            self._entries[key] = make()
            if len(self._entries) > _CAPACITY:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        return self._entries[key]


_COMPILED = _Recent()


def _is_jax_array(x: Any) -> bool:
    return isinstance(x, jax.Array)


def _join(out: tuple[list[Any], _Static]) -> Any:
    arrays, static = out
    return static.with_arrays(arrays)


def _compile(traced: Any, shardings: tuple[Any, ...]) -> Any:
    """The compiled program, found again if one with the same text was compiled."""
    lowered = traced.lower()
    size = sum(getattr(c, "nbytes", 0) for c in traced.jaxpr.consts)
    text = lowered.as_text() if size <= _MAX_CONSTANTS else "callback"
    if "callback" in text:
        # Calls of Python are numbered in the text, which does not say what they call.
        return lowered.compile()
    digest = hashlib.sha256(text.encode()).digest()
    key = (digest, lowered.out_tree, shardings)
    return _COMPILED.get(key, lowered.compile)
