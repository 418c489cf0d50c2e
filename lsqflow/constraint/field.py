"""Vector fields that are gradients, and fields without divergence."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import _tree as tree
from .inputs import require_count, require_function
from .vector_field import AbstractFieldConstraint, VectorField


class Conservative(AbstractFieldConstraint):
    r"""A vector field is a gradient: its Jacobian is symmetric.

    A residual of zero means $J = J^\top$ for $J = \partial f(\theta, x) / \partial x$
    at the points of the step. With probes it means $(J - J^\top) v = 0$, or
    $u^\top (J - J^\top) v = 0$, for the probes of the step.

    Let $A = (J - J^\top) / 2$ be the antisymmetric part. Residuals are

    - without probes, $\sqrt 2 A_{ij}$ for $i < j$, of shape `(batch, d (d − 1) / 2)`;
    - with probes, $A v$, of the shape of the probes, `(probes, batch, …)`;
    - with pairs of probes, $u^\top A v$, of shape `(probes, batch)`;

    divided by the square root of the number of points (and probes). So ‖residual‖ is
    ‖A‖ (Frobenius), root mean square over the points. With probes, its square is that
    in expectation.

    `violation` is ‖J − Jᵀ‖ / ‖J‖ over all the points, an estimate if there are probes:
    0 for a gradient, √2 where J and Jᵀ are orthogonal, 2 for a rotation.

    ```python
    spec = lf.Conservative(score, probes=1)
    sampler = spec.sampler(lambda key: jax.random.normal(key, (64, 784)))
    constraint = lf.Sampled(spec, sampler, jax.random.key(0))
    ```

    **Cost:** for each point, d Jacobian–vector products of the field, and memory for a
    d × d Jacobian. With probes, a product and a transposed product for each probe; with
    pairs, two products for each. Use exact rows up to some dozens of dimensions.
    """

    field: Callable[..., Array]
    probes: int | None = eqx.field(static=True)
    pairs: bool = eqx.field(static=True)

    def __init__(
        self,
        field: Callable[..., Array],
        probes: int | None = None,
        *,
        pairs: bool = False,
    ) -> None:
        """**Arguments:**

        - `field`: `field(params, x)`, from a point, an array of any shape, to a vector
            of the same shape.
        - `probes`: the number of probes for each point; by default None, for exact
            residuals.
        - `pairs`: whether to take one residual for a pair of probes, instead of d
            residuals for each probe.

        At each step, residuals take `points` of shape `(batch, …)`. Where the field
        takes more than a point, such as `field(params, x, time)`, they take a tuple,
        `(points, times)`. With probes they take these next, of shape
        `(probes, batch, …)`, or `(probes, 2, batch, …)` for pairs: independent numbers
        of mean 0 and variance 1, which `sampler` draws.

        **Raises:** `ValueError` unless `probes` is positive, for pairs without probes,
        and for points, fields and probes that do not fit; `TypeError` for points that
        are not floating-point, and where points or probes are missing.
        """
        require_function(field, "field", "Conservative", "lambda params, x: ...")
        require_count(probes, "probes", "Conservative")
        self.field = field
        self.probes = probes
        self.pairs = pairs
        if pairs and probes is None:
            raise ValueError(
                "`Conservative`: there are no pairs without probes. Pass `probes=1`, "
                "the number of pairs a point."
            )

    def _prefix(self) -> tuple[int, ...] | None:
        if self.probes is None:
            return None
        return (self.probes, 2) if self.pairs else (self.probes,)

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        f = self._at(params, args)
        if self.probes is None:
            if f.dimension < 2:
                raise ValueError(
                    "`Conservative`: every field in one dimension is a gradient; got "
                    f"points of the shape {f.x.shape}, one number each."
                )
            J = f.jacobians()
            i, j = np.triu_indices(f.dimension, 1)
            return (J[:, i, j] - J[:, j, i]) / math.sqrt(2 * f.batch)
        scale = 2 * math.sqrt(f.batch * self.probes)
        if not self.pairs:
            return (f.products(f.probes) - f.transposed(f.probes)) / scale
        u, v = f.probes[:, 0], f.probes[:, 1]
        return (f.dot(u, f.products(v)) - f.dot(v, f.products(u))) / scale

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """‖J − Jᵀ‖ / ‖J‖ over the points, from 0 to 2."""
        f = self._at(params, args)
        if self.probes is None:
            J = f.jacobians()
            Jt = jnp.swapaxes(J, 1, 2)
        else:
            probes = f.probes.reshape(-1, *f.x.shape)
            J, Jt = f.products(probes), f.transposed(probes)
        # Both norms agree in expectation; with their mean, no estimate is above 2.
        size = tree.norm((J, Jt)) / math.sqrt(2)
        return tree.norm(J - Jt) * tree.safe_reciprocal(size)


class DivergenceFree(AbstractFieldConstraint):
    r"""A vector field has no divergence: the trace of its Jacobian is zero.

    A residual of zero means $\operatorname{tr} J = 0$ for
    $J = \partial f(\theta, x) / \partial x$ at the points of the step.

    Residuals are the traces, of shape `(batch,)`, divided by the square root of the
    number of points, so that ‖residual‖ is their root mean square. With probes, traces
    are Hutchinson's estimates, the mean of $v^\top J v$ over the probes, with a
    variance of about $2 ‖J + J^\top‖^2 / (4 \cdot \text{probes})$.

    Fresh probes in each step ask for more than a trace of zero. The estimates are zero
    for all probes only if $J + J^\top$ is diagonal besides, however many probes there
    are and however small the learning rate is. Use probes where d products are out of
    reach and this is acceptable.

    `violation` is |tr J| / (√d ‖J‖), of root mean squares over the points: 0 without
    divergence, 1 for pure expansion. With probes it is an estimate.

    ```python
    spec = lf.DivergenceFree(velocity)
    sampler = spec.sampler(lambda key: jax.random.uniform(key, (64, 3)))
    constraint = lf.Sampled(spec, sampler, jax.random.key(0))
    ```

    **Cost:** for each point, d Jacobian–vector products of the field; with probes, one
    for each probe.

    ??? cite "Reference"

        ```bibtex
        @article{hutchinson1990stochastic,
            author = {Hutchinson, Michael F.},
            title = {A stochastic estimator of the trace of the influence matrix for
                     {L}aplacian smoothing splines},
            journal = {Communications in Statistics -- Simulation and Computation},
            volume = {19},
            number = {2},
            pages = {433--450},
            year = {1990},
        }
        ```
    """

    field: Callable[..., Array]
    probes: int | None = eqx.field(static=True)

    def __init__(self, field: Callable[..., Array], probes: int | None = None) -> None:
        """**Arguments:**

        - `field`: `field(params, x)`, from a point, an array of any shape, to a vector
            of the same shape.
        - `probes`: the number of probes for each point; by default None, for exact
            residuals.

        Residuals take points and probes as those of [`lsqflow.Conservative`][] do.

        **Raises:** as [`lsqflow.Conservative`][].
        """
        require_function(field, "field", "DivergenceFree", "lambda params, x: ...")
        require_count(probes, "probes", "DivergenceFree")
        self.field = field
        self.probes = probes

    def _prefix(self) -> tuple[int, ...] | None:
        return None if self.probes is None else (self.probes,)

    def residual(self, params: PyTree[Array], *args: Any) -> PyTree[Array]:
        return self._traces(self._at(params, args))[0]

    def violation(self, params: PyTree[Array], *args: Any) -> Float[Array, ""]:
        """|tr J| / (√d ‖J‖), root mean squares over the points, from 0 to 1."""
        f = self._at(params, args)
        traces, products = self._traces(f)
        size = tree.norm(products) * math.sqrt(
            f.dimension / (f.batch * (self.probes or 1))
        )
        return tree.norm(traces) * tree.safe_reciprocal(size)

    def _traces(self, f: VectorField) -> tuple[Array, Array]:
        """The residual, and products of the same size as the Jacobians."""
        if self.probes is None:
            J = f.jacobians()
            traces = jnp.trace(J, axis1=1, axis2=2)
        else:
            J = f.products(f.probes)
            traces = jnp.mean(f.dot(f.probes, J), axis=0)
        return traces / math.sqrt(f.batch), J
