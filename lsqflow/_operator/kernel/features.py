"""Random features: a kernel matrix as the product of two thin ones."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from ..._jax import manual_axes
from ..._tree import Structure
from ..base import AbstractOperator
from .rows import Rows, require_chunk_size

# Half the degrees of freedom of the spectral density, a multivariate Student t; the
# normal distribution of the RBF kernel is the limit.
_SMOOTHNESS = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5, "rbf": None}


class RandomFeatures(AbstractOperator):
    r"""The matrix of random Fourier features of points.

    With frequencies $\omega_j$, phases $\varphi_j$, lengthscale $\ell$ and amplitude
    $a$, for $j = 1 \dots m$,

    $$\Phi_{ij} = a \sqrt{2 / m} \, \cos(\omega_j^T x_i / \ell + \varphi_j),$$

    or, without phases, the pair $a \sqrt{1 / m} \, \cos(\omega_j^T x_i / \ell)$ and
    $a \sqrt{1 / m} \, \sin(\omega_j^T x_i / \ell)$: first all cosines, then all sines.
    For frequencies drawn from the spectral density of a kernel, and phases from
    $[0, 2 \pi)$, the mean of $\Phi \Phi^T$ is the kernel matrix $a^2 k(x_i, x_l)$.
    [`RandomFeatures.sample`][lsqflow.RandomFeatures.sample] draws them:

    ```python
    features = lf.RandomFeatures.sample(key, x, 1000, lengthscale=0.3)
    weights = lf.lstsq(features, b, damp=0.1).value
    prediction = features.at(x_new).mv(weights)
    ```

    The matrix is never stored. A product computes `chunk_size` rows of it at a time, in
    `rows × m` cosines and memory for `chunk_size × m` numbers; derivatives of products
    keep to a small multiple of that. Leaves, and so differentiable, are `x`,
    `frequencies`, `phases`, `lengthscale` and `amplitude`.

    Reference: A. Rahimi and B. Recht, Random features for large-scale kernel machines,
    NIPS 2007.
    """

    may_call_back = False

    x: Float[Array, "..."]
    frequencies: Float[Array, "..."]
    phases: Float[Array, "..."] | None
    lengthscale: Float[Array, "..."]
    amplitude: Float[Array, "..."]
    chunk_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        x: ArrayLike,
        frequencies: ArrayLike,
        phases: ArrayLike | None = None,
        *,
        lengthscale: ArrayLike = 1.0,
        amplitude: ArrayLike = 1.0,
        chunk_size: int | None = None,
    ) -> None:
        """**Arguments:**

        - `x`: points, one a row, of shape `(rows, dimension)`; real floating point.
        - `frequencies`: of shape `(m, dimension)`.
        - `phases`: of shape `(m,)`. By default cosines and sines in pairs, twice as
            many features.
        - `lengthscale`: what the points are divided by, of shape `()` or
            `(dimension,)`.
        - `amplitude`: a scalar that the features are multiplied with.
        - `chunk_size`: the number of rows that are computed at a time. By default a
            million entries; more may be faster on an accelerator.

        Everything is converted to the dtype of `x`.

        **Raises:** `ValueError` if a shape is another one, `x` is not real floating
        point, or `chunk_size` is not positive.
        """
        require_chunk_size(chunk_size)
        self.x = _as_points(x)
        dtype, dimension = self.x.dtype, self.x.shape[1]
        self.frequencies = jnp.asarray(frequencies, dtype)
        if self.frequencies.ndim != 2 or self.frequencies.shape[1] != dimension:
            raise ValueError(
                f"`frequencies` must have shape (m, {dimension}), a row a feature and "
                f"a column for each of `x`; got {self.frequencies.shape}."
            )
        count = len(self.frequencies)
        self.phases = None if phases is None else jnp.asarray(phases, dtype)
        self.lengthscale = jnp.asarray(lengthscale, dtype)
        self.amplitude = jnp.asarray(amplitude, dtype)
        self.chunk_size = chunk_size
        allowed = {
            "phases": [(count,)],
            "lengthscale": [(), (dimension,)],
            "amplitude": [()],
        }
        for name, shapes in allowed.items():
            value = getattr(self, name)
            if value is not None and value.shape not in shapes:
                raise ValueError(
                    f"`{name}` must have shape {' or '.join(map(str, shapes))}; got "
                    f"{value.shape}."
                )

    @classmethod
    def sample(
        cls,
        key: Key[Array, ""],
        x: ArrayLike,
        num_features: int,
        lengthscale: ArrayLike = 1.0,
        kernel: str = "rbf",
        *,
        amplitude: ArrayLike = 1.0,
        pairs: bool = False,
        chunk_size: int | None = None,
    ) -> "RandomFeatures":
        """Features of a kernel, with frequencies from its spectral density.

        That of the Matérn kernel of smoothness ν is a multivariate Student t with 2 ν
        degrees of freedom, and a normal distribution for the RBF kernel. The draw does
        not depend on the lengthscale: solutions are smooth in it.

        **Arguments:**

        - `key`: a key of `jax.random`.
        - `x`, `lengthscale`, `amplitude`, `chunk_size`: as in `RandomFeatures`.
        - `num_features`: the number of columns of the matrix.
        - `kernel`: `"rbf"`, `"matern12"`, `"matern32"` or `"matern52"`.
        - `pairs`: whether to draw half as many frequencies, for a cosine and a sine
            each, instead of phases. The variance is lower for most kernels.

        **Raises:** `ValueError` if there is no such kernel, or `num_features` is not
        positive, or odd with `pairs`.
        """
        if kernel not in _SMOOTHNESS:
            raise ValueError(
                f"`kernel` must be one of {sorted(_SMOOTHNESS)}; got {kernel!r}. For "
                "another one, pass frequencies from its spectral density to "
                "`RandomFeatures`."
            )
        if num_features < 1 or (pairs and num_features % 2):
            raise ValueError(
                "`num_features` must be positive, and even with `pairs`; got "
                f"{num_features}."
            )
        x = _as_points(x)
        count = num_features // 2 if pairs else num_features
        keys = jax.random.split(key, 3)
        frequencies = jax.random.normal(keys[0], (count, x.shape[1]), x.dtype)
        smoothness = _SMOOTHNESS[kernel]
        if smoothness is not None:
            mixture = jax.random.gamma(keys[1], smoothness, (count, 1), x.dtype)
            frequencies *= jnp.sqrt(smoothness / mixture)
        phases = None
        if not pairs:
            phases = jax.random.uniform(keys[2], (count,), x.dtype, maxval=2 * jnp.pi)
        return cls(
            x,
            frequencies,
            phases,
            lengthscale=lengthscale,
            amplitude=amplitude,
            chunk_size=chunk_size,
        )

    def at(self, x: ArrayLike) -> "RandomFeatures":
        """The same features of other points, for prediction."""
        return RandomFeatures(
            x,
            self.frequencies,
            self.phases,
            lengthscale=self.lengthscale,
            amplitude=self.amplitude,
            chunk_size=self.chunk_size,
        )

    def _rows(self) -> Rows:
        count = self.frequencies.shape[0]

        def row(point: Array) -> Array:
            angles = jnp.matmul(
                self.frequencies,
                point / self.lengthscale,
                precision=jax.lax.Precision.HIGHEST,
            )
            if self.phases is None:
                pair = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
                return self.amplitude / count**0.5 * pair
            return self.amplitude * (2 / count) ** 0.5 * jnp.cos(angles + self.phases)

        return Rows(jax.vmap(row), self.x, self._num_features(), self.chunk_size)

    def _num_features(self) -> int:
        return self.frequencies.shape[0] * (2 if self.phases is None else 1)

    def mv(self, vector: Float[Array, " features"]) -> Float[Array, " rows"]:
        return self._rows().mv(vector)

    def rmv(self, vector: Float[Array, " rows"]) -> Float[Array, " features"]:
        return self._rows().rmv(vector, manual_axes((self, vector)))

    def in_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self._num_features(),), self.x.dtype)

    def out_structure(self) -> Structure:
        return jax.ShapeDtypeStruct((self.x.shape[0],), self.x.dtype)

    def as_matrix(self) -> Float[Array, "rows features"]:
        return self._rows().matrix()

    def linearise(self) -> AbstractOperator:
        # What does not depend on the vector is the matrix: to hoist it is to store it.
        return self


def _as_points(x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in x.shape:
        raise ValueError(
            "`x` must hold points as rows, with shape (rows, dimension), in real "
            f"floating-point numbers; got shape {x.shape} and dtype {x.dtype}. Points "
            "on a line are `x[:, None]`."
        )
    return x
