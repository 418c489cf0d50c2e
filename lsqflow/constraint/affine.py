"""Linear equations as a constraint."""

from typing import Any

from jaxtyping import Array, PyTree

from .. import _tree as tree
from .._operator.base import AbstractOperator
from .._operator.convert import as_operator
from .._problem.inputs import conform
from .base import AbstractConstraint


class Affine(AbstractConstraint):
    """Linear equations `C x = d`. The residual is `C x − d`.

    Redundant equations are harmless. Contradictory ones are reported by the function
    that solves them, such as [`lsqflow.lstsq`][].

    ```python
    lf.Affine(jnp.array([[1.0, 1.0, 1.0]]), jnp.array([1.0]))  # entries sum to one
    ```
    """

    operator: AbstractOperator
    target: PyTree[Array]

    def __init__(self, operator: Any, target: Any = None) -> None:
        """**Arguments:**

        - `operator`: $C$, an operator of lsqflow or lineax, or a matrix.
        - `target`: $d$, with the structure of the operator's output; by default zero.

        **Raises:** `ValueError` or `TypeError` if the two do not fit.
        """
        self.operator = as_operator(operator)
        structure = self.operator.out_structure()
        if target is None:
            self.target = tree.zeros(structure)
        else:
            self.target = conform(target, structure, "target", "output")

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """`C x − d`."""
        return tree.sub(self.operator.mv(params), self.target)

    def jacobian(self, params: PyTree[Array], *args: Any) -> AbstractOperator:
        """`C`, everywhere."""
        return self.operator
