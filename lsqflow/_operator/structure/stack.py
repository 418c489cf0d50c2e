"""Operators stacked, side by side, and along a diagonal."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from ..._tree import Structure, Vector
from ..base import AbstractOperator
from ..composite import AbstractComposite, is_operator, same_structure, total
from ..convert import as_operator, is_operator_like
from ..display import brief


class VStack(AbstractComposite):
    r"""Operators that share their input: $x \mapsto (A_1 x, A_2 x, \dots)$.

    The result is a pytree (list, tuple, dictionary, …) like that of the operators. For
    one long vector, `lf.Ravel(stack.out_structure()) @ stack`.

    **Cost:** one product with each operator.
    """

    operators: PyTree[AbstractOperator]

    def __init__(self, operators: PyTree[Any]) -> None:
        """**Arguments:**

        - `operators`: a pytree of operators, lineax operators or matrices.

        **Raises:** `ValueError` if there is none, or if their inputs differ.
        """
        self.operators = _as_operators(operators, "`VStack`")
        require_equal(
            [input_of(op) for op in _leaves(self.operators)], "`VStack`: inputs"
        )

    def mv(self, vector: Vector) -> Vector:
        return _map(lambda op: op.mv(vector), self.operators)

    def rmv(self, vector: Vector) -> Vector:
        return total([op.rmv(u) for op, u in _pairs(self.operators, vector)])

    def in_structure(self) -> Structure:
        return input_of(_leaves(self.operators)[0])

    def out_structure(self) -> Structure:
        return _map(output_of, self.operators)

    def transpose(self) -> AbstractOperator:
        return HStack(_map(_transpose, self.operators))


class HStack(AbstractComposite):
    r"""Operators that share their output: $(x_1, x_2, \dots) \mapsto \sum_i A_i x_i$.

    The vector is a pytree (list, tuple, dictionary, …) like that of the operators.

    **Cost:** one product with each operator.
    """

    operators: PyTree[AbstractOperator]

    def __init__(self, operators: PyTree[Any]) -> None:
        """**Arguments:**

        - `operators`: a pytree of operators, lineax operators or matrices.

        **Raises:** `ValueError` if there is none, or if their outputs differ.
        """
        self.operators = _as_operators(operators, "`HStack`")
        ends = [output_of(op) for op in _leaves(self.operators)]
        require_equal(ends, "`HStack`: outputs")

    def mv(self, vector: Vector) -> Vector:
        return total([op.mv(x) for op, x in _pairs(self.operators, vector)])

    def rmv(self, vector: Vector) -> Vector:
        return _map(lambda op: op.rmv(vector), self.operators)

    def in_structure(self) -> Structure:
        return _map(input_of, self.operators)

    def out_structure(self) -> Structure:
        return output_of(_leaves(self.operators)[0])

    def transpose(self) -> AbstractOperator:
        return VStack(_map(_transpose, self.operators))


class BlockDiagonal(AbstractComposite):
    r"""Operators side by side: $(x_1, x_2, \dots) \mapsto (A_1 x_1, A_2 x_2, \dots)$.

    Vectors are pytrees (lists, tuples, dictionaries, …) like that of the operators.

    **Cost:** one product with each operator.
    """

    operators: PyTree[AbstractOperator]

    def __init__(self, operators: PyTree[Any]) -> None:
        """**Arguments:**

        - `operators`: a pytree of operators, lineax operators or matrices.

        **Raises:** `ValueError` if there is none.
        """
        self.operators = _as_operators(operators, "`BlockDiagonal`")

    def mv(self, vector: Vector) -> Vector:
        return self._each([op.mv(x) for op, x in _pairs(self.operators, vector)])

    def rmv(self, vector: Vector) -> Vector:
        return self._each([op.rmv(u) for op, u in _pairs(self.operators, vector)])

    def _each(self, results: list[Vector]) -> Vector:
        treedef = jax.tree.structure(self.operators, is_leaf=is_operator)
        return treedef.unflatten(results)

    def in_structure(self) -> Structure:
        return _map(input_of, self.operators)

    def out_structure(self) -> Structure:
        return _map(output_of, self.operators)

    def transpose(self) -> AbstractOperator:
        return BlockDiagonal(_map(_transpose, self.operators))

    def tags(self) -> frozenset[object]:
        first, *rest = (op.tags() for op in _leaves(self.operators))
        return frozenset(first).intersection(*rest)


def _map(function: Callable[[Any], Any], operators: PyTree[Any]) -> Any:
    return jax.tree.map(function, operators, is_leaf=is_operator)


def _leaves(operators: PyTree[Any]) -> list[AbstractOperator]:
    return jax.tree.leaves(operators, is_leaf=is_operator)


def _pairs(
    operators: PyTree[Any], vector: Vector
) -> list[tuple[AbstractOperator, Vector]]:
    """Each operator with its part of the vector."""
    leaves, treedef = jax.tree.flatten(operators, is_leaf=is_operator)
    return list(zip(leaves, treedef.flatten_up_to(vector), strict=True))


def input_of(operator: AbstractOperator) -> Structure:
    """The structure that an operator takes."""
    return operator.in_structure()


def output_of(operator: AbstractOperator) -> Structure:
    """The structure that an operator returns."""
    return operator.out_structure()


def _transpose(operator: AbstractOperator) -> AbstractOperator:
    return operator.transpose()


def _as_operators(operators: PyTree[Any], owner: str) -> PyTree[AbstractOperator]:
    operators = jax.tree.map(as_operator, operators, is_leaf=is_operator_like)
    if not _leaves(operators):
        raise ValueError(f"{owner} needs at least one operator; got none.")
    return operators


def require_equal(ends: Sequence[Structure], what: str) -> None:
    """Raise a `ValueError` unless all structures are the same."""
    for end in ends:
        if not same_structure(end, ends[0]):
            raise ValueError(
                f"{what} must be equal; got {brief(ends[0])} and {brief(end)}."
            )
