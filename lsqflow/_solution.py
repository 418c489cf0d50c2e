"""What a solve returns."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PyTree

from . import _tree as tree
from ._outcome import StopReason, is_failure, name_of, raised, result_of


class PrimalDual(eqx.Module):
    """The three vectors of one solve. All its derivatives follow from them.

    **Attributes:**

    - `primal`: $x$, with the structure of the operator's input.
    - `dual`: $y$ with $x = A^H y$, with the structure of the output.
    - `residual`: $r = b - A x$, with the structure of the output.
    """

    primal: PyTree[Array]
    dual: PyTree[Array]
    residual: PyTree[Array]


class Solution(eqx.Module):
    r"""The solution of a least-squares problem, and how it was reached.

    Print it to see the numbers. The problem is to minimize

    $$f(x) = \|W^{1/2} (A x - b)\|^2 + \lambda^2 \|x\|^2 + \sum_i s_i^2 \|L_i (x -
    \mu_i)\|^2$$

    with the weights $W$, the damping λ, and the regularizers, as far as they are given.
    The norms below are those of this problem, however it was stated.

    **Attributes:**

    - `value`: the minimizer $x$, with the structure of the operator's input. Where it
        is not unique, it is the one of least norm.
    - `residual`: $r = b - A x$, without the weights, computed from `value`. It has the
        structure of the operator's output.
    - `dual`: $y$, with the structure of the output. Without regularizers $x = A^H y$:
        $y = W r / \lambda^2$ with damping, and $y = (A A^H)^+ b$ without damping and
        weights, the Lagrange multiplier of the least-norm problem. A `Tikhonov` without
        operator and prior counts as damping. With other regularizers, $y$ is the part
        of the data in the dual of all rows. `None` where there are bounds or equations.
    - `objective`: the minimum $f(x)$.
    - `result`: a `lineax.RESULTS`. It is `lineax.RESULTS.successful` if and only if the
        solution can be trusted to the tolerances of the solver. It prints the reason.
    - `stats`: a dictionary of diagnostics. They carry no derivatives.

        - `"num_steps"`: the number of steps of the solver, 0 for a direct one.
        - `"residual_norm"`: $\|b - A x\|$, the norm of `residual`.
        - `"normal_residual_norm"`: $\|\nabla f(x)\| / 2$, computed from `value`. In the
            simplest case it is $\|A^H r\|$. With equations or bounds, their
            multipliers are subtracted first. At the solution it is zero.
        - `"operator_norm"`: an estimate of $\|A\|$ from below. With weights, it is that
            of $W^{1/2} A$. Regularizers are further rows of this operator. Iterative
            solvers estimate the Frobenius norm, direct ones the spectral norm.
        - `"condition"`: an estimate from below of the condition number of the same
            operator, with the damping. NaN from direct solvers.
        - `"relative_error"`: an estimate of $\|x^* - x\| / \|x\|$, for the exact
            solution $x^*$. NaN from direct solvers.
        - `"stop_reason"`: an [`lsqflow.StopReason`][].
        - `"history"`: only with `history=k` in the solver: a dictionary of the last `k`
            values of ‖r‖ (`"residual_norm"`) and ‖Aᴴ r − λ² x‖
            (`"normal_residual_norm"`), as the solver knows them without computing them.
            They are those of the whole problem: weights and damping count, and
            regularizers are further rows.
    - `state`: the [`lsqflow.PrimalDual`][] from which derivatives are computed: value,
        dual and residual of the problem that was solved, before the way back from
        weights, regularizers and `x0`.
    - `multipliers`: the Lagrange multipliers $\mu$ of `subject_to` or `bounds`;
        otherwise `None`. Let $g = \nabla f(x) / 2$. For equations `C x = d`, they have
        the structure of `d`, and $g + C^H \mu = 0$. For bounds, they have the structure
        of `x`: $g$ where a bound holds `x` back, which is positive at a lower and
        negative at an upper bound, and 0 elsewhere.
    """

    value: PyTree[Array]
    residual: PyTree[Array]
    dual: PyTree[Array]
    objective: Float[Array, ""]
    result: lx.RESULTS
    stats: dict[str, Any]
    state: PyTree[Any]
    multipliers: PyTree[Array] | None = None

    def raise_if_failed(self) -> "Solution":
        """Return the solution if it can be trusted; otherwise raise, with the reason.

        **Use when** the solve had `throw=False`, outside of `jit`: the error is one
        sentence. The compiled program then has no callback to the host, and JAX can
        keep it in its persistent cache.

        **Raises:** `equinox.EquinoxRuntimeError` if the solve failed. In a batch, the
        reason is that of the first failure.
        """
        reason = self.stats["stop_reason"]
        vectors = (self.value, self.residual, self.dual)
        value, residual, dual = raised(vectors, reason)
        return dataclasses.replace(self, value=value, residual=residual, dual=dual)

    def __repr__(self) -> str:
        try:
            return _summary(self)
        except Exception:  # noqa: BLE001  a transformation has replaced its leaves
            return eqx.tree_pformat(self)


def concluded(
    solution: PrimalDual,
    objective: Float[Array, ""],
    state: PyTree[Any],
    stats: dict[str, Any],
    multipliers: PyTree[Array] | None = None,
) -> Solution:
    """What the user gets, from a solution in the variables of the user."""
    norm = tree.norm(solution.residual)
    return Solution(
        value=solution.primal,
        residual=solution.residual,
        dual=solution.dual,
        objective=objective,
        result=result_of(stats["stop_reason"]),
        stats=jax.lax.stop_gradient({**stats, "residual_norm": norm}),
        state=state,
        multipliers=multipliers,
    )


def _summary(solution: Solution) -> str:
    """How it ended, in numbers; then what there is, in shapes."""
    reason = solution.stats["stop_reason"]
    steps = int(solution.stats["num_steps"])
    norm = float(solution.stats["residual_norm"])
    way = f"in {steps} step{'s' * (steps != 1)}" if steps else "directly"
    if bool(reason == StopReason.interrupted):
        head = f"interrupted after {steps} steps"
    elif bool(is_failure(reason)):
        head = f"FAILED after {steps} steps ({name_of(reason)})"
    else:
        head = f"solved {way} ({name_of(reason)})"
    normal = float(solution.stats["normal_residual_norm"])
    objective = float(np.asarray(solution.objective))
    head += f", ‖b − A x‖ = {norm:.3g}, ‖∇f‖ / 2 = {normal:.1e}, f = {objective:.4g}"
    lines = [f"Solution: {head}"]
    for name in ("value", "residual", "dual", "multipliers"):
        value = getattr(solution, name)
        if value is not None:
            shown = eqx.tree_pformat(value, width=10**6, struct_as_array=True)
            lines.append(f"  {name}: {shown}")
    lines.append(f"  stats: {', '.join(solution.stats)}")
    return "\n".join(lines)
