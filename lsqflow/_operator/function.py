"""Operators given by a Python function: a linear one, or the Jacobian of any."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .. import _tree as tree
from .._tree import Structure, Vector
from .base import AbstractOperator
from .program import Program
from .views import Linearised


class FunctionOperator(AbstractOperator):
    """A linear function as an operator.

    The function is traced once, here. What it closes over becomes leaves of the
    operator, so that solutions are differentiable with respect to it, and two operators
    made from equal code share one compilation, however often the function is
    defined anew.
    """

    program: Program
    structures: tree.StaticStructure = eqx.field(static=True)
    known_tags: frozenset[object] = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable[[Any], Any],
        example: Any,
        tags: frozenset[object] = frozenset(),
    ) -> None:
        """**Arguments:**

        - `fn`: a linear function from a pytree of arrays to a pytree of arrays.
        - `example`: an argument of `fn`, or the structure of one as a pytree of
            `jax.ShapeDtypeStruct`. Its values are not used.
        - `tags`: lineax tags that the operator is known to satisfy (not checked).

        **Raises:** `TypeError` if the arrays involved are not real or complex floating
        point.
        """
        self.program = Program.trace(fn, tree.structure(example))
        self.structures = tree.StaticStructure(
            (tree.structure(example), self.program.out_structure)
        )
        self.known_tags = tags
        tree.require_inexact(self.structures.tree, "`FunctionOperator`")

    def mv(self, vector: Vector) -> Vector:
        return self.program(vector)

    def in_structure(self) -> Structure:
        return self.structures.tree[0]

    def out_structure(self) -> Structure:
        return self.structures.tree[1]

    def tags(self) -> frozenset[object]:
        return self.known_tags


class JacobianOperator(AbstractOperator):
    """The Jacobian of `fn(x, *args)` with respect to `x`, at a point.

    Products are Jacobian–vector and vector–Jacobian products; the function is
    linearised once a solve. Solutions are differentiable with respect to `at`, `args`
    and everything that `fn` closes over.
    """

    jax_transposes_well = True

    program: Program
    at: Vector
    args: tuple[Any, ...]
    structures: tree.StaticStructure = eqx.field(static=True)
    known_tags: frozenset[object] = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable[..., Any],
        at: Vector,
        *args: Any,
        tags: frozenset[object] = frozenset(),
    ) -> None:
        """**Arguments:**

        - `fn`: a differentiable function `fn(at, *args)` between pytrees of arrays.
        - `at`: the point of linearisation, a pytree of floating-point arrays.
        - `args`: further arguments, pytrees of arrays or of anything else.
        - `tags`: lineax tags that the Jacobian is known to satisfy (not checked).

        **Raises:** `TypeError` if input or output of `fn` are not floating point.
        """
        self.at = jax.tree.map(jnp.asarray, at)
        self.args = args
        dynamic, static = eqx.partition(args, eqx.is_array)

        def closed(x: Vector, dynamic: Any) -> Any:
            return fn(x, *eqx.combine(dynamic, static))

        self.program = Program.trace(
            closed, tree.structure(self.at), tree.structure(dynamic)
        )
        self.structures = tree.StaticStructure(
            (tree.structure(self.at), self.program.out_structure)
        )
        self.known_tags = tags
        tree.require_inexact(self.structures.tree, "`JacobianOperator`")

    def _function(self) -> Callable[[Vector], Vector]:
        # Not a bound method: JAX compares those by the leaves of the operator.
        args = eqx.filter(self.args, eqx.is_array)
        return lambda x: self.program(x, args)

    def mv(self, vector: Vector) -> Vector:
        return jax.jvp(self._function(), (self.at,), (vector,))[1]

    def rmv(self, vector: Vector) -> Vector:
        return jax.vjp(self._function(), self.at)[1](vector)[0]

    def in_structure(self) -> Structure:
        return self.structures.tree[0]

    def out_structure(self) -> Structure:
        return self.structures.tree[1]

    def linearise(self) -> AbstractOperator:
        _, forward = jax.linearize(self._function(), self.at)
        return Linearised(forward, None, self.structures, self.known_tags)

    def tags(self) -> frozenset[object]:
        return self.known_tags
