"""Operators in a grid."""

from collections.abc import Callable, Sequence
from typing import Any

from ..._tree import Structure, Vector
from ..base import AbstractOperator
from ..composite import AbstractComposite, total
from ..convert import as_operator
from .stack import input_of, output_of, require_equal


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
            _require_line(row, output_of, f"row {i}")
        for j, column in enumerate(self._columns()):
            _require_line(column, input_of, f"column {j}")

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
        return tuple(_first(column, input_of) for column in self._columns())

    def out_structure(self) -> Structure:
        return tuple(_first(row, output_of) for row in self.rows)

    def transpose(self) -> AbstractOperator:
        return Block(
            [[None if op is None else op.T for op in col] for col in self._columns()]
        )


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
    require_equal(ends, f"`Block`: blocks of {name}")


def _first(line: Sequence[Any], end: Callable[[Any], Structure]) -> Structure:
    return end(next(op for op in line if op is not None))
