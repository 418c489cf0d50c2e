"""The Gauss–Newton approximation of a Hessian."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, ArrayLike, Float

from .. import _tree as tree
from .._tree import Structure, Vector
from .base import AbstractOperator
from .composite import AbstractComposite
from .convert import as_operator
from .function import JacobianOperator
from .program import Program


class GaussNewtonOperator(AbstractOperator):
    r"""The Gauss–Newton matrix of a function at a point, $J^H H J + \lambda^2 I$.

    $J$ is the Jacobian of `fn(x, *args)` with respect to `x`, and $H$ the identity, a
    given operator, or the Hessian of a loss at `fn(at, *args)`. A product is one with
    $J$, one with $H$ and one with $J^H$; the function and the gradient of the loss are
    linearised once a solve.

    ```python
    G = lf.GaussNewtonOperator(
        network, weights, inputs, loss=cross_entropy, convex=True, damp=0.1
    )
    step = lx.linear_solve(G, gradient, lx.CG(rtol=1e-3, atol=0.0)).value
    ```

    Solutions are differentiable with respect to `at`, `args`, the leaves of `hessian`,
    `damp`, and everything that `fn` and `loss` close over.

    !!! note

        The step of a least-squares problem, $\min \|J s + r\|$, is
        `lf.lstsq(lf.JacobianOperator(fn, at), r)`, negated: same products, but the
        condition number of $J^H J$ is the square of that of $J$.

    Reference: N. N. Schraudolph, Fast curvature matrix–vector products for second-order
    gradient descent, Neural Computation 14 (2002).
    """

    jacobian: JacobianOperator
    hessian: AbstractOperator | None
    loss_gradient: Program | None
    damp: Float[Array, "..."] | None
    known_tags: frozenset[object] = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable[..., Any],
        at: Vector,
        *args: Any,
        hessian: lx.AbstractLinearOperator | ArrayLike | None = None,
        loss: Callable[[Any], Any] | None = None,
        convex: bool = False,
        damp: ArrayLike | None = None,
    ) -> None:
        """**Arguments:**

        - `fn`: a differentiable function `fn(at, *args)` between pytrees of arrays.
        - `at`: the point of linearisation, a pytree of floating-point arrays.
        - `args`: further arguments, pytrees of arrays or of anything else.
        - `hessian`: `H`, an operator or a matrix on outputs of `fn`. By default the
            identity.
        - `loss`: a twice differentiable function from outputs of `fn` to a real scalar,
            whose Hessian is `H`. Outputs must then be real.
        - `convex`: whether `loss` is known to be convex, and the operator tagged as
            positive semidefinite. Without `loss`, tags follow from those of `hessian`.
        - `damp`: λ, a real scalar.

        **Raises:** `TypeError` if input or output of `fn` are not floating point;
        `ValueError` if `hessian` does not fit the outputs, if it is given together with
        `loss`, if `loss` returns no real scalar or its argument is complex, or if
        `damp` is not a scalar.
        """
        self.jacobian = JacobianOperator(fn, at, *args)
        outputs = self.jacobian.out_structure()
        if hessian is not None and loss is not None:
            raise ValueError(
                "`hessian` and `loss` both say what H is; give one of them."
            )
        self.hessian = None if hessian is None else as_operator(hessian)
        self.loss_gradient = None if loss is None else _gradient(loss, outputs)
        self.damp = None
        if damp is not None:
            self.damp = jnp.asarray(damp, tree.scalar_dtype(self.in_structure()))
            if self.damp.shape != ():
                raise ValueError(
                    f"`damp` must be a scalar; got shape {self.damp.shape}."
                )
        if self.hessian is not None:
            ends = self.hessian.in_structure(), self.hessian.out_structure()
            if ends != (outputs, outputs):
                raise ValueError(
                    "`hessian` must map outputs of `fn` to themselves, with structure "
                    f"{outputs}; it maps {ends[0]} to {ends[1]}."
                )
        self.known_tags = self._tags(convex=convex)

    def _tags(self, *, convex: bool) -> frozenset[object]:
        if self.hessian is not None:
            given = self.hessian.tags()
            symmetric = lx.symmetric_tag in given
            semidefinite = lx.positive_semidefinite_tag in given
        else:
            symmetric = True
            semidefinite = self.loss_gradient is None or convex
        tags = set()
        if semidefinite:
            tags.add(lx.positive_semidefinite_tag)
        ends = self.in_structure(), self.jacobian.out_structure()
        if (symmetric or semidefinite) and not tree.is_complex(ends):
            tags.add(lx.symmetric_tag)
        return frozenset(tags)

    def _factors(self) -> "_Factors":
        hessian = self.hessian
        if self.loss_gradient is not None:
            J = self.jacobian
            outputs = J.program(J.at, eqx.filter(J.args, eqx.is_array))
            hessian = JacobianOperator(self.loss_gradient, outputs)
        return _Factors(self.jacobian, hessian, self.damp, self.known_tags)

    def mv(self, vector: Vector) -> Vector:
        return self._factors().mv(vector)

    def rmv(self, vector: Vector) -> Vector:
        return self._factors().rmv(vector)

    def in_structure(self) -> Structure:
        return self.jacobian.in_structure()

    def out_structure(self) -> Structure:
        return self.jacobian.in_structure()

    def tags(self) -> frozenset[object]:
        return self.known_tags

    def linearise(self) -> AbstractOperator:
        return self._factors().linearise()


class _Factors(AbstractComposite):
    """`Jᴴ H J + λ² I` from its factors."""

    jacobian: AbstractOperator
    hessian: AbstractOperator | None
    damp: Float[Array, "..."] | None
    known_tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Vector) -> Vector:
        out = self.jacobian.mv(vector)
        if self.hessian is not None:
            out = self.hessian.mv(out)
        return self._back(out, vector)

    def rmv(self, vector: Vector) -> Vector:
        # Aᵀ u = conj(Aᴴ conj(u)) and Aᴴ = Jᴴ Hᴴ J + λ² I.
        vector = tree.conj(vector)
        out = self.jacobian.mv(vector)
        if self.hessian is not None:
            out = self.hessian.adjoint_mv(out)
        return tree.conj(self._back(out, vector))

    def _back(self, out: Vector, vector: Vector) -> Vector:
        out = self.jacobian.adjoint_mv(out)
        return out if self.damp is None else tree.axpy(self.damp**2, vector, out)

    def in_structure(self) -> Structure:
        return self.jacobian.in_structure()

    def out_structure(self) -> Structure:
        return self.jacobian.in_structure()

    def tags(self) -> frozenset[object]:
        return self.known_tags


def _gradient(loss: Callable[[Any], Any], outputs: Structure) -> Program:
    value = jax.eval_shape(loss, outputs)
    real = not tree.is_complex((outputs, value))
    shapes = [x.shape for x in jax.tree.leaves(value)]
    if shapes != [()] or not real or not isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(
            "`loss` must map real outputs of `fn` to one real scalar; outputs are "
            f"{outputs} and it returned {value}. For complex ones, pass the Hessian as "
            "an operator, `hessian`."
        )
    return Program.trace(jax.grad(loss), outputs)
