"""Pruning: set weights to zero, and change others to make up for them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float

from .._derivative.adjoint import ImplicitAdjoint
from .._operator.matrix import MatrixOperator
from .._operator.structure.selection import Mask
from .._problem.inputs import as_damp
from .._problem.problem import Problem
from .._solver.auto import AutoSolver
from .inputs import as_numbers


def compensate(
    weights: ArrayLike,
    mask: ArrayLike,
    inputs: ArrayLike,
    solver: lx.AbstractLinearSolver = AutoSolver(),
    *,
    damp: ArrayLike | None = None,
    throw: bool = True,
) -> Float[Array, "out in"]:
    r"""Set weights to zero, and change the others so that the layer does the same.

    With the weights $W$ and $N$ calibration inputs, the rows of $X$, this is

    $$\min_V \tfrac1N \|X (V - W)^\mathsf{T}\|^2 + \lambda^2 \|V - W\|^2
    \quad\text{with}\quad V = 0 \text{ in the mask,}$$

    a least-squares problem for each row of $V$. It is the surgeon's update of Hassibi
    and Stork, for many weights at once. Where there are too few inputs to determine
    $V$, the result is the one nearest to $W$.

    ```python
    mask = lf.Sparsity(0.5).mask(weights)
    weights = lf.compensate(weights, mask, activations, damp=0.01)
    ```

    Transpose kernels of shape `(in, out)`, as in flax, and their masks before, and the
    result after.

    **Cost:** all rows are solved together. A step of the solver multiplies
    `(samples, in)` with `(in, out)` twice. Memory is that of a few results, and of
    `(samples, out)`.

    **Arguments:**

    - `weights`: $W$, of shape `(out, in)`.
    - `mask`: booleans of the same shape, true for weights to be zero, such as the mask
        of [`lsqflow.Sparsity`][].
    - `inputs`: $X$, the inputs of the layer, of shape `(samples, in)`.
    - `solver`: as in [`lsqflow.lstsq`][].
    - `damp`: λ, in units of the inputs. It keeps weights near to what they were. A
        hundredth to a tenth of the root mean square of the inputs helps against
        overfitting.
    - `throw`: whether a failed solve raises.

    **Returns:** $V$, differentiable with respect to weights, inputs and damping.

    **Raises:** `ValueError` if shapes do not fit; `TypeError` if the dtypes of weights
    and inputs differ, or the mask is not boolean.

    ??? cite "References"

        Hassibi and Stork, *Second order derivatives for network pruning: optimal brain
        surgeon*, NeurIPS 1993. Frantar and Alistarh, *SparseGPT*, ICML 2023,
        [arXiv:2301.00774](https://arxiv.org/abs/2301.00774).
    """
    weights, mask, inputs = (
        as_numbers(x, name, "compensate")
        for x, name in ((weights, "weights"), (mask, "mask"), (inputs, "inputs"))
    )
    _require_fit(weights, mask, inputs)
    if damp is not None:
        damp = as_damp(damp, inputs)
    return _compensate(weights, mask, inputs, solver, damp, throw=throw)


@eqx.filter_jit
def _compensate(
    weights: Array,
    mask: Array,
    inputs: Array,
    solver: lx.AbstractLinearSolver,
    damp: Array | None,
    *,
    throw: bool,
) -> Array:
    count = jnp.asarray(inputs.shape[0], inputs.dtype)
    operator = MatrixOperator(inputs / jnp.sqrt(count))
    dropped = jnp.where(mask, weights, jnp.zeros_like(weights))

    @jax.vmap
    def change(row: Array, free: Array) -> Any:
        masked = operator @ Mask(free, row.dtype)
        problem = Problem(masked, operator.mv(row), damp)
        solution, _ = ImplicitAdjoint().solve(problem, solver, throw=throw)
        return solution.primal

    kept = jnp.where(mask, jnp.zeros_like(weights), weights)
    return kept + change(dropped, ~mask)


def _require_fit(weights: Array, mask: Array, inputs: Array) -> None:
    if weights.ndim != 2 or mask.shape != weights.shape:
        raise ValueError(
            "`compensate` needs weights (out, in) and a mask of the same shape; got "
            f"{weights.shape} and {mask.shape}. Reshape or transpose other kernels."
        )
    if inputs.ndim != 2 or inputs.shape[1] != weights.shape[1] or not inputs.shape[0]:
        raise ValueError(
            f"`inputs` must be of shape (samples, {weights.shape[1]}), like the "
            f"columns of the weights; got {inputs.shape}. Transpose kernels (in, out)."
        )
    if inputs.dtype != weights.dtype or mask.dtype != jnp.bool_:
        raise TypeError(
            "`compensate` needs weights and inputs of the same dtype and a boolean "
            f"mask; got {weights.dtype}, {inputs.dtype} and {mask.dtype}. Convert one "
            "with `.astype`."
        )
