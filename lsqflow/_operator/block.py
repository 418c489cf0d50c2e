"""Operators stacked, side by side, along a diagonal, and in a grid."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from .._tree import Structure, Vector
from .base import AbstractOperator
from .composite import AbstractComposite, is_operator, same_structure, total
from .convert import as_operator, is_operator_like
from .display import brief


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
        _require_equal([_in(op) for op in _leaves(self.operators)], "`VStack`: inputs")

    def mv(self, vector: Vector) -> Vector:
        return _map(lambda op: op.mv(vector), self.operators)

    def rmv(self, vector: Vector) -> Vector:
        return total([op.rmv(u) for op, u in _pairs(self.operators, vector)])

    def in_structure(self) -> Structure:
        return _in(_leaves(self.operators)[0])

    def out_structure(self) -> Structure:
        return _map(_out, self.operators)

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
        ends = [_out(op) for op in _leaves(self.operators)]
        _require_equal(ends, "`HStack`: outputs")

    def mv(self, vector: Vector) -> Vector:
        return total([op.mv(x) for op, x in _pairs(self.operators, vector)])

    def rmv(self, vector: Vector) -> Vector:
        return _map(lambda op: op.rmv(vector), self.operators)

    def in_structure(self) -> Structure:
        return _map(_in, self.operators)

    def out_structure(self) -> Structure:
        return _out(_leaves(self.operators)[0])

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
        return _map(_in, self.operators)

    def out_structure(self) -> Structure:
        return _map(_out, self.operators)

    def transpose(self) -> AbstractOperator:
        return BlockDiagonal(_map(_transpose, self.operators))

    def tags(self) -> frozenset[object]:
        first, *rest = (op.tags() for op in _leaves(self.operators))
        return frozenset(first).intersection(*rest)


class Block(AbstractComposite):
    r"""A grid of operators, $(x_j)_j \mapsto (\sum_j A_{ij} x_j)_i$.

    Vectors are tuples with an entry for each column, results tuples with an entry for
    each row.

    **Cost:** one product with each operator; zero blocks cost nothing.
    """

    rows: tuple[tuple[AbstractOperator | None, ...], ...]

    def __init__(self, rows: Sequence[Sequence[Any]]) -> None:
        """**Arguments:**

        - `rows`: operators (or lineax operators, or matrices) row by row; `None` for a
            block of zeros. A row or column of zeros alone needs an
            [`lsqflow.Zero`][], which knows its shapes.

        **Raises:** `ValueError` if rows differ in length, if a row or column holds
        nothing but `None`, or if the blocks of a row or column do not fit together.
        """
        self.rows = tuple(
            tuple(None if block is None else as_operator(block) for block in row)
            for row in rows
        )
        lengths = sorted({len(row) for row in self.rows})
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"`Block` needs rows of one positive length; got lengths {lengths}."
            )
        for i, row in enumerate(self.rows):
            _require_line(row, _out, f"row {i}")
        for j, column in enumerate(self._columns()):
            _require_line(column, _in, f"column {j}")

    def _columns(self) -> tuple[tuple[AbstractOperator | None, ...], ...]:
        return tuple(zip(*self.rows, strict=True))

    def mv(self, vector: Vector) -> Vector:
        return tuple(
            total([op.mv(x) for op, x in _present(row, vector)]) for row in self.rows
        )

    def rmv(self, vector: Vector) -> Vector:
        return tuple(
            total([op.rmv(u) for op, u in _present(column, vector)])
            for column in self._columns()
        )

    def in_structure(self) -> Structure:
        return tuple(_first(column, _in) for column in self._columns())

    def out_structure(self) -> Structure:
        return tuple(_first(row, _out) for row in self.rows)

    def transpose(self) -> AbstractOperator:
        return Block(
            [[None if op is None else op.T for op in col] for col in self._columns()]
        )


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


def _in(operator: AbstractOperator) -> Structure:
    return operator.in_structure()


def _out(operator: AbstractOperator) -> Structure:
    return operator.out_structure()


def _transpose(operator: AbstractOperator) -> AbstractOperator:
    return operator.transpose()


def _first(line: Sequence[Any], end: Callable[[Any], Structure]) -> Structure:
    return end(next(op for op in line if op is not None))


def _present(line: Sequence[Any], vector: Vector) -> list[tuple[Any, Vector]]:
    """The operators of a row or column that are there, with their parts."""
    pairs = zip(line, vector, strict=True)
    return [(op, x) for op, x in pairs if op is not None]


def _require_line(
    line: Sequence[Any], end: Callable[[Any], Structure], name: str
) -> None:
    ends = [end(op) for op in line if op is not None]
    if not ends:
        raise ValueError(
            f"`Block`: {name} holds nothing but `None`, so its shape is not known. Put "
            "an `lsqflow.Zero` into it."
        )
    _require_equal(ends, f"`Block`: blocks of {name}")


def _as_operators(operators: PyTree[Any], owner: str) -> PyTree[AbstractOperator]:
    operators = jax.tree.map(as_operator, operators, is_leaf=is_operator_like)
    if not _leaves(operators):
        raise ValueError(f"{owner} needs at least one operator; got none.")
    return operators


def _require_equal(ends: Sequence[Structure], what: str) -> None:
    for end in ends:
        if not same_structure(end, ends[0]):
            raise ValueError(
                f"{what} must be equal; got {brief(ends[0])} and {brief(end)}."
            )
