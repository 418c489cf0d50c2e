"""Checks for operators of your own, to be called in your tests.

```python
def test_blur():
    lf.testing.check_operator(Blur(kernel, (8, 9)))
```
"""

import functools as ft
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from . import _tree as tree
from ._lstsq import lstsq
from ._operator.base import AbstractOperator
from ._operator.convert import OperatorLike, as_operator
from ._operator.display import brief
from ._solver.lsmr import LSMR
from ._tree import Vector

# Beyond this size the matrix is not formed, and the checks that need it are left out.
_SMALL = 256


def check_operator(
    operator: OperatorLike,
    *,
    solve: bool = True,
    seed: int = 0,
) -> None:
    """Check all that solvers, derivatives and lineax expect of an operator.

    With random vectors: that `mv` is linear and `rmv` its transpose; structures and
    dtypes; `T`, `H`, `conj`, `linearise` and `as_matrix` against the products; `jit`
    and `vmap`; that new values of its leaves compile nothing. With random directions
    in its inexact leaves: forward derivatives against finite differences (in 64 bits)
    and backward against forward ones. And, for at most 256 entries on either side, that
    lineax's QR and [`lsqflow.lstsq`][] find the solutions that NumPy finds for the
    matrix.

    **Arguments:**

    - `operator`: the operator to check, best a small one.
    - `solve`: whether to solve with it as well, which takes longer than all the rest.
    - `seed`: of the random numbers.

    **Raises:** `AssertionError` that lists every failed check.
    """
    operator = as_operator(operator)
    _require_structures(operator)
    subject = _Subject(operator, np.random.default_rng(seed))
    failures = []
    for check in (*_CHECKS, _solves) if solve else _CHECKS:
        try:
            check(subject)
        except AssertionError as error:
            failures.append(f"- {check.__doc__} {error}")
    if failures:
        raise AssertionError("\n".join((f"{subject.operator!r}", *failures)))


def _require(condition: bool, message: str) -> None:  # noqa: FBT001
    """`assert`, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


class _Subject:
    """An operator, random vectors for it, and its products with them."""

    def __init__(self, operator: AbstractOperator, rng: np.random.Generator) -> None:
        self.operator, self.rng = operator, rng
        self.ends = operator.in_structure(), operator.out_structure()
        self.x, self.z = self.draw(self.ends[0]), self.draw(self.ends[0])
        self.u = self.draw(self.ends[1])
        self.eps = float(jnp.finfo(tree.storage_dtype(self.ends)).eps)
        self.size = max(map(tree.size, self.ends))
        # Between real and complex vectors an operator is linear over the reals only.
        self.over_reals = len(set(map(tree.is_complex, self.ends))) > 1
        self.parameters, self.static = eqx.partition(operator, eqx.is_inexact_array)
        self.traces = 0
        self.products = eqx.filter_jit(self._products)

    def draw(self, structure: Any) -> Vector:
        """A standard normal vector."""

        def leaf(s: Any) -> Any:
            x = self.rng.standard_normal(s.shape)
            if jnp.issubdtype(s.dtype, jnp.complexfloating):
                x = x + 1j * self.rng.standard_normal(s.shape)
            return jnp.asarray(x, s.dtype)

        return jax.tree.map(leaf, structure)

    def _products(self, parameters: Any, x: Vector, z: Vector, u: Vector) -> Any:
        """All products that the checks compare, in one compilation."""
        self.traces += 1
        op = eqx.combine(parameters, self.static)
        hoisted = op.linearise()
        two = jnp.full((), 2, tree.scalar_dtype(x))
        pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), x, z)
        return {
            "A x": op.mv(x),
            "A z": op.mv(z),
            "A (x + 2 z)": op.mv(tree.axpy(two, z, x)),
            "Aᵀ u": op.rmv(u),
            "Aᴴ u": op.adjoint_mv(u),
            "T.mv": op.T.mv(u),
            "T.rmv": op.T.rmv(x),
            "H.mv": op.H.mv(u),
            "conj.mv": tree.conj(op.conj().mv(tree.conj(x))),
            "linearise().mv": hoisted.mv(x),
            "linearise().rmv": hoisted.rmv(u),
            "vmap(mv)": jax.vmap(op.mv)(pair),
        }

    @ft.cached_property
    def got(self) -> dict[str, Any]:
        """The products with the operator as it is."""
        return self.products(self.parameters, self.x, self.z, self.u)

    @ft.cached_property
    def matrix(self) -> np.ndarray | None:
        """The matrix, if there is one and it is small."""
        if self.size > _SMALL or not self.size or self.over_reals:
            return None
        return np.asarray(eqx.filter_jit(lambda op: op.as_matrix())(self.operator))

    def close(self, got: Any, want: Any, what: str, digits: float = 1) -> None:
        """Require equality up to rounding, or in a part of the digits."""
        got, want = (jax.tree.map(jnp.asarray, x) for x in (got, want))
        same = brief(tree.structure(got)) == brief(tree.structure(want))
        shapes = f"{brief(got)} instead of {brief(want)}"
        _require(same, f"{what} is wrong: {shapes}.")
        bound = (100 * max(self.size, 1) ** 0.5 * self.eps) ** digits
        error = float(tree.norm(tree.sub(got, want)))
        error /= float(tree.norm(want)) or 1.0
        _require(error <= bound, f"{what} is wrong: relative error {error:.1e}.")


def _require_structures(operator: AbstractOperator) -> None:
    """Structures and dtypes, on which all other checks rest."""
    source, target = operator.in_structure(), operator.out_structure()
    for name, product, start, end in (
        ("mv", operator.mv, source, target),
        ("rmv", operator.rmv, target, source),
    ):
        got = brief(tree.structure(jax.eval_shape(product, start)))
        said = "out_structure" if name == "mv" else "in_structure"
        _require(
            got == brief(tree.structure(end)),
            f"`{name}` returns {got}, but `{said}` says {brief(end)}.",
        )


def _linear(subject: _Subject) -> None:
    """Linearity."""
    two = jnp.full((), 2, tree.scalar_dtype(subject.x))
    want = tree.axpy(two, subject.got["A z"], subject.got["A x"])
    subject.close(subject.got["A (x + 2 z)"], want, "`mv(x + 2 z)`")


def _adjoint(subject: _Subject) -> None:
    """The dot test, ⟨A x, u⟩ = ⟨x, Aᴴ u⟩."""
    Ax, Au = subject.got["A x"], subject.got["Aᴴ u"]
    gap = abs(float(tree.inner(Ax, subject.u)) - float(tree.inner(subject.x, Au)))
    scale = float(tree.norm(Ax) * tree.norm(subject.u))
    scale += float(tree.norm(Au) * tree.norm(subject.x))
    error = gap / (scale or 1.0)
    bound = 10 * subject.eps * max(subject.size, 1) ** 0.5
    _require(error <= bound, f"`rmv` is not the transpose: relative error {error:.1e}.")


def _views(subject: _Subject) -> None:
    """Transposed, adjoint, conjugated and linearised operators."""
    for name, want in (
        ("T.mv", "Aᵀ u"),
        ("T.rmv", "A x"),
        ("H.mv", "Aᴴ u"),
        ("conj.mv", "A x"),
        ("linearise().mv", "A x"),
        ("linearise().rmv", "Aᵀ u"),
    ):
        subject.close(subject.got[name], subject.got[want], f"`{name}`")


def _transformations(subject: _Subject) -> None:
    """`jit`, `vmap` and recompilation."""
    subject.close(subject.operator.mv(subject.x), subject.got["A x"], "eager `mv`")
    pair = [subject.got["A x"], subject.got["A z"]]
    want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair)
    subject.close(subject.got["vmap(mv)"], want, "`vmap(mv)`")
    other = jax.tree.map(lambda p: p * jnp.asarray(1.5, p.dtype), subject.parameters)
    subject.products(other, subject.x, subject.z, subject.u)
    again = f"new values of the leaves traced again ({subject.traces} times)."
    _require(subject.traces == 1, again)


def _as_matrix(subject: _Subject) -> None:
    """`as_matrix`."""
    matrix = subject.matrix
    if matrix is None:
        return
    x, u = _flat(subject.x), _flat(subject.u)
    _require(matrix.shape == (len(u), len(x)), f"its shape is {matrix.shape}.")
    subject.close(matrix @ x, _flat(subject.got["A x"]), "`as_matrix() @ x`")
    subject.close(matrix.T @ u, _flat(subject.got["Aᵀ u"]), "`as_matrix().T @ u`")


def _derivatives(subject: _Subject) -> None:
    """Derivatives in the leaves."""
    if not jax.tree.leaves(subject.parameters):
        return
    direction = subject.draw(subject.parameters)

    def products(parameters: Any) -> Any:
        op = eqx.combine(parameters, subject.static)
        return op.mv(subject.x), op.rmv(subject.u)

    weights = subject.draw((subject.ends[1], subject.ends[0]))

    @jax.jit
    def derivatives(step: Any) -> Any:
        ends = [
            products(tree.axpy(s * step, direction, subject.parameters))
            for s in (1, -1)
        ]
        difference = tree.scale(1 / (2 * step), tree.sub(*ends))
        _, tangent = jax.jvp(products, (subject.parameters,), (direction,))
        _, pull = jax.vjp(products, subject.parameters)
        (cotangent,) = pull(jax.tree.map(jnp.conj, weights))
        backward = tree.inner(tree.conj(cotangent), direction)
        return difference, tangent, tree.inner(weights, tangent), backward

    step = jnp.asarray(1e-6, tree.scalar_dtype(subject.parameters))
    difference, tangent, forward, backward = derivatives(step)
    if subject.eps < 1e-12:
        subject.close(tangent, difference, "`jvp` in the leaves", digits=0.5)
    scale = float(tree.norm(weights) * tree.norm(tangent)) or 1.0
    error = abs(float(forward - backward)) / scale
    bound = 100 * subject.size**0.5 * subject.eps
    _require(error <= bound, f"`vjp` and `jvp` differ: relative error {error:.1e}.")


def _solves(subject: _Subject) -> None:
    """Solutions by lineax's QR and `lstsq`."""
    matrix = subject.matrix
    if matrix is None:
        return
    u, adjoint = _flat(subject.u), matrix.conj().T
    values = np.linalg.svd(matrix, compute_uv=False)
    if values[-1] > 1e-3 * values[0] > 0:
        x = _flat(lx.linear_solve(subject.operator, subject.u, lx.QR()).value)
        want = np.linalg.pinv(matrix) @ u
        subject.close(x, want.astype(x.dtype), "the solution by QR", digits=0.5)
    # Damping makes any problem well-posed, and quick.
    damp = 0.1 * float(values[0]) or 1.0
    x = _flat(lstsq(subject.operator, subject.u, LSMR(), damp=damp).value)
    gram = adjoint @ matrix + damp**2 * np.eye(len(x), dtype=matrix.dtype)
    want = np.linalg.solve(gram, adjoint @ u)
    subject.close(x, want.astype(x.dtype), "the solution by `lstsq`", digits=0.5)


def _flat(vector: Vector) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(vector)])


_CHECKS = (
    _linear,
    _adjoint,
    _views,
    _transformations,
    _as_matrix,
    _derivatives,
)
