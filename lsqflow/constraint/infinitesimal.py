"""Models that respect the generators of a symmetry group."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PyTree

from .. import _tree as tree
from .base import AbstractConstraint
from .inputs import as_numbers, require_function, take
from .symmetry import relative, require_action, require_equal, scaled, unmoved


class InfinitesimalEquivariance(AbstractConstraint):
    r"""Equivariance under a connected group, by the generators of its Lie algebra.

    $$ \frac{d}{dt}\Big|_{t=0} \big(\rho(e^{tG}) f(\theta, x) - f(\theta, e^{tG} x)\big)
    = 0 $$

    for each generator G and each point x of a step. The residual is that derivative. It
    takes no matrix exponential, since $I + tG$ has the same derivative. If it is zero
    at every point, the model is equivariant under every element that a path in the
    group connects to the identity: under rotations, but not under reflections.

    ```python
    G = jnp.array([[[0.0, -1.0], [1.0, 0.0]]])  # rotations of the plane
    move = lambda g, x: x @ g.T
    lf.InfinitesimalEquivariance(apply, G, move)
    ```

    `violation` is the root mean square of the derivative, divided by that of the
    outputs.

    **Shapes:** the residual is like the output of the model, with an axis of generators
    in front; its norm is the root mean square of the derivative.

    **Cost:** one evaluation of the model, and one Jacobian–vector product for each
    generator.

    ??? cite "Reference"

        ```bibtex
        @inproceedings{finzi2021,
          author = {Finzi, Marc and Welling, Max and Wilson, Andrew Gordon},
          title = {A Practical Method for Constructing Equivariant Multilayer
            Perceptrons for Arbitrary Matrix Groups},
          booktitle = {International Conference on Machine Learning},
          year = {2021},
        }
        ```
    """

    apply: Callable[[Any, Any], PyTree[Array]]
    generators: Inexact[Array, "generators ..."]
    action: Callable[[Any, Any], Any]
    out_action: Callable[[Any, Any], Any] | None
    identity: Inexact[Array, "..."]

    def __init__(
        self,
        apply: Callable[[Any, Any], PyTree[Array]],
        generators: Any,
        action: Callable[[Any, Any], Any],
        out_action: Callable[[Any, Any], Any] | None = None,
        identity: Any = None,
    ) -> None:
        """**Arguments:**

        - `apply`: the model, `apply(params, x)` on a batch of points.
        - `generators`: matrices, of shape `(generators, n, n)`; or, with `identity`,
            other tangents at the identity, such as `[1.0]` for an action by an angle.
        - `action`: `action(g, x)`, what an element does to a batch of points;
            differentiable in `g`.
        - `out_action`: what it does to the outputs; by default nothing.
        - `identity`: the element that does nothing; by default the identity matrix.

        **Raises:** `ValueError` if the shapes do not fit.
        """
        owner = "InfinitesimalEquivariance"
        require_function(apply, "apply", owner, "lambda params, x: ...")
        require_action(action, out_action, owner)
        self.apply = apply
        generators = as_numbers(generators, "generators", owner)
        if not jnp.issubdtype(generators.dtype, jnp.inexact):
            generators = generators.astype(jnp.result_type(float))
        self.generators = generators
        self.action = action
        self.out_action = out_action
        shape = generators.shape
        if identity is None:
            if len(shape) != 3 or shape[1] != shape[2]:
                raise ValueError(
                    "`generators` must be square matrices along a first axis; got an "
                    f"array of shape {shape}. For an action by other coordinates, such "
                    "as an angle, give the coordinates of the `identity`."
                )
            identity = jnp.eye(shape[1], dtype=generators.dtype)
        self.identity = jnp.asarray(identity, generators.dtype)
        if shape[:1] == (0,) or self.identity.shape != shape[1:]:
            raise ValueError(
                "`generators` must be one or more arrays of the shape of `identity`, "
                f"{self.identity.shape}, along a first axis; got shape {shape}."
            )

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        """The derivative of `ρ(g) f(θ, x) − f(θ, g x)` along each generator."""
        return scaled(self._defect(params, args)[0])

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """Root mean square of the derivative, relative to that of the outputs."""
        return relative(*self._defect(params, args))

    def _defect(self, params: PyTree[Array], args: tuple[Any, ...]) -> tuple[Any, Any]:
        (x,) = take(args, ("points",), "`lsqflow.InfinitesimalEquivariance`")
        y = self.apply(params, x)

        def difference(g: Array) -> PyTree[Array]:
            want = (self.out_action or unmoved)(g, y)
            got = self.apply(params, self.action(g, x))
            require_equal(want, got)
            return tree.sub(want, got)

        along = lambda G: jax.jvp(difference, (self.identity,), (G,))[1]
        return jax.vmap(along)(self.generators), y
