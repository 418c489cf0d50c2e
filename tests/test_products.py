"""Products under JAX's own differentiation, with wrong vectors, and in programs."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.test_util import check_grads

import lsqflow as lf

from .helpers import dtype_of, matrix, normal, relative_error, rng

A = matrix(rng(), (5, 4))


class Own(lf.AbstractOperator):
    """A matrix, squared entry by entry; `calls` names the products that were traced."""

    entries: jax.Array
    calls: list = eqx.field(static=True, default_factory=list)

    def mv(self, vector):
        self.calls.append("mv")
        return self.entries**2 @ vector

    def rmv(self, vector):
        self.calls.append("rmv")
        return vector @ self.entries**2

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[1:], self.entries.dtype)

    def out_structure(self):
        return jax.ShapeDtypeStruct(self.entries.shape[:1], self.entries.dtype)

    def linearise(self):
        return self


class Doubled(Own):
    """A user's subclass of a subclass, whose products are those of `super()`."""

    def mv(self, vector):
        return 2 * super().mv(vector)

    def rmv(self, vector):
        return 2 * super().rmv(vector)


class Opaque(Own):
    """Its products run on the host, where JAX cannot look."""

    def mv(self, vector):
        return self._on_host(lambda a, x: a**2 @ x, self.out_structure(), vector)

    def rmv(self, vector):
        return self._on_host(lambda a, u: u @ a**2, self.in_structure(), vector)

    def _on_host(self, function, out, vector):
        function = lambda a, x, f=function: f(np.asarray(a), np.asarray(x))
        return jax.pure_callback(
            function, out, self.entries, vector, vmap_method="sequential"
        )


@pytest.mark.parametrize("kind", ["grad", "vjp", "linear_transpose"])
@pytest.mark.parametrize("make", [Own, Doubled])
def test_the_derivative_runs_the_own_rmv(make, kind):
    operator, x, u = make(jnp.asarray(A)), jnp.ones(4), jnp.arange(5.0)
    dense = A**2 * (2 if make is Doubled else 1)
    got, want = {
        "grad": lambda: (
            jax.grad(lambda x: jnp.sum((operator.mv(x) - u) ** 2) / 2)(x),
            dense.T @ (dense @ x - u),
        ),
        "vjp": lambda: (jax.vjp(operator.mv, x)[1](u)[0], dense.T @ u),
        "linear_transpose": lambda: (
            jax.linear_transpose(operator.mv, x)(u)[0],
            dense.T @ u,
        ),
    }[kind]()
    assert relative_error(got, want) < 1e-14
    assert operator.calls.count("rmv") == 1
    backward = make(jnp.asarray(A))
    got = jax.jit(lambda u, x: jax.vjp(backward.rmv, u)[1](x)[0])(u, x)
    assert relative_error(got, dense @ x) < 1e-14
    assert "mv" in backward.calls


@pytest.mark.parametrize("make", [Own, Doubled])
def test_derivatives_of_any_order_in_leaves_and_vectors(make):
    def loss(entries, x, u):
        entries, x, u = map(jnp.asarray, (entries, x, u))
        operator = make(entries)
        return jnp.sum(jnp.sin(operator.mv(x)) * u) + jnp.sum(operator.rmv(u) ** 3)

    args = jnp.asarray(A), jnp.linspace(-1, 1, 4), jnp.linspace(0, 1, 5)
    check_grads(loss, args, order=2, atol=1e-5, rtol=1e-5)
    batch = jnp.stack([args[1], 2 * args[1]])
    got = jax.jit(jax.vmap(jax.grad(loss), (None, 0, None)))(args[0], batch, args[2])
    want = jnp.stack([jax.grad(loss)(args[0], x, args[2]) for x in batch])
    assert relative_error(got, want) < 1e-14


def test_a_network_around_a_product_is_trained_by_the_own_rmv():
    """Operators that do linearise: what does not depend on the vector is hoisted."""
    kernel, image = normal(rng(0), (3, 3), float), normal(rng(1), (6, 7), float)

    def loss(kernel, image):
        kernel, image = jnp.asarray(kernel), jnp.asarray(image)
        blurred = lf.Convolution(kernel, (6, 7), method="fft").mv(jnp.tanh(image))
        return jnp.sum(jnp.tanh(blurred))

    check_grads(loss, (kernel, image), order=2, atol=1e-5, rtol=1e-5)


def test_products_on_the_host_have_derivatives():
    operator, x, u = Opaque(jnp.asarray(A)), jnp.ones(4), jnp.arange(5.0)
    for wrap in (lambda f: f, jax.jit):
        got = wrap(lambda x, u: jax.vjp(operator.mv, x)[1](u)[0])(x, u)
        assert relative_error(got, (A**2).T @ u) < 1e-14
        got = wrap(jax.vmap(lambda u: jax.vjp(operator.mv, x)[1](u)[0]))(jnp.eye(5))
        assert relative_error(got, A**2) < 1e-14


def test_complex_products_transpose_without_conjugation():
    dense = matrix(rng(), (5, 4), dtype=complex)
    operator = Own(jnp.asarray(dense))
    u = jnp.asarray(normal(rng(1), 5, complex))
    (got,) = jax.vjp(operator.mv, jnp.ones(4, complex))[1](u)
    assert relative_error(got, (dense**2).T @ u) < 1e-14


@pytest.mark.float32
def test_dtypes_of_vectors():
    single, double = jnp.float32, dtype_of("real")
    operator = Own(jnp.ones((3, 2), single))
    for vector in (jnp.asarray([1, 2]), np.asarray([True, False]), jnp.full(2, 3)):
        assert operator.mv(vector).dtype == single
    waves = Own(jnp.ones((3, 2), jnp.complex64))
    assert waves.mv(jnp.ones(2, single)).dtype == jnp.complex64
    wrong = [jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.complex64)]
    wrong += [jnp.ones(2, double)] if double != single else []
    for vector in wrong:
        with pytest.raises(
            TypeError, match=r"`Own` takes f32\[2\]; got .*\[2\].*astype"
        ):
            operator.mv(vector)


@jax.custom_jvp
def clipped(x):
    """A function with a rule that calls the function itself."""
    return jnp.exp(x)


clipped.defjvp(lambda primals, dots: (clipped(*primals), dots[0] * clipped(*primals)))


@jax.custom_jvp
def other_rule(x):
    """The same values, another derivative."""
    return jnp.exp(x)


other_rule.defjvp(lambda primals, dots: (other_rule(*primals), 2 * dots[0]))


@jax.custom_vjp
def backward_only(x):
    """A function that has a derivative in one direction."""
    return jnp.sin(x)


backward_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, bar: (bar * jnp.cos(x),))

# Every call of an entry defines its function anew.
FUNCTIONS = {
    "relu": lambda: lambda x: jax.nn.relu(x) * 2,
    "rule that calls itself": lambda: lambda x: clipped(x) + 0.0,
    "jit": lambda: jax.jit(lambda x: jnp.sin(x) * 2),
    "scan": lambda: (
        lambda x: jax.lax.scan(lambda c, a: (c + jax.nn.silu(a), c * a), x[0], x)[1]
    ),
    "while": lambda: lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * x, x),
    "cond": lambda: lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jax.nn.relu, x),
    "checkpoint": lambda: jax.checkpoint(lambda x: jnp.sin(jax.nn.gelu(x))),
    "solve": lambda: lambda x: jnp.linalg.solve(jnp.eye(3) + jnp.outer(x, x), x),
    "nothing": lambda: lambda x: jnp.concatenate([x, x]),
    "product": lambda: lambda x: lf.Circulant(jnp.arange(3.0)).mv(jnp.sin(x)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equal_functions_compile_once_and_can_be_pickled(name):
    x, traces = jnp.asarray([0.5, -0.25, 2.0]), []

    @eqx.filter_jit
    def products(operator):
        traces.append(None)
        return operator.mv(x), operator.rmv(operator.mv(x))

    operator = lf.JacobianOperator(FUNCTIONS[name](), x)
    want = products(operator)
    jacobian = jax.jacfwd(FUNCTIONS[name]())(x)
    assert relative_error(want, (jacobian @ x, jacobian.T @ (jacobian @ x))) < 1e-12
    for again in (
        lf.JacobianOperator(FUNCTIONS[name](), x),
        pickle.loads(pickle.dumps(operator)),
    ):
        assert relative_error(products(again), want) == 0
        assert len(traces) == 1


def test_rules_of_derivatives_are_compared_and_kept():
    x = jnp.ones(3)
    one, other = (
        lf.JacobianOperator(lambda x, f=f: f(x), x) for f in (clipped, other_rule)
    )
    assert jax.tree.structure(one) != jax.tree.structure(other)
    programs = [
        lf.JacobianOperator(lambda x: 1 * backward_only(x), x) for _ in range(2)
    ]
    assert len({jax.tree.structure(program) for program in programs}) == 1
    again = pickle.loads(pickle.dumps(programs[0]))
    np.testing.assert_allclose(again.rmv(x), np.cos(1) * np.ones(3), rtol=1e-14)


def test_what_cannot_be_pickled_says_what_to_do():
    def on_host(x):
        return jax.pure_callback(lambda x: x, jax.typeof(x), x)

    operator = lf.FunctionOperator(on_host, jnp.ones(3))
    with pytest.raises(TypeError, match=r"`pure_callback`.*make it anew"):
        pickle.dumps(operator)


class Network(lf.AbstractOperator):
    """The Jacobian of a network, whose leaves are functions as well as arrays."""

    network: eqx.nn.MLP
    at: jax.Array

    def mv(self, vector):
        return jax.jvp(self.network, (self.at,), (vector,))[1]

    def rmv(self, vector):
        return jax.vjp(self.network, self.at)[1](vector)[0]

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.at.shape, self.at.dtype)


def _network():
    return eqx.nn.MLP(3, 4, 5, 1, jnp.tanh, key=jax.random.key(0))


OPERATORS = {
    "network": lambda: Network(_network(), jnp.ones(3)),
    "lineax function": lambda: lx.FunctionLinearOperator(
        lambda x, a=jnp.asarray(A): {"y": a @ x}, jax.ShapeDtypeStruct((4,), float)
    ),
    "lineax Jacobian": lambda: lx.JacobianLinearOperator(
        lambda x, network: network(x), jnp.ones(3), _network()
    ),
    "lineax Jacobian, backwards": lambda: lx.JacobianLinearOperator(
        lambda x, network: network(x), jnp.ones(3), _network(), jac="bwd"
    ),
    "lineax pytree": lambda: lx.PyTreeLinearOperator(
        [jnp.asarray(A)], [jax.ShapeDtypeStruct((5,), float)]
    ),
    "lineax tridiagonal": lambda: lx.TridiagonalLinearOperator(
        jnp.arange(3.0) + 2, jnp.ones(2), jnp.ones(2)
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_with_functions_for_leaves(name):
    lf.testing.check_operator(OPERATORS[name](), solve=False)


PREDICATES = [
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
]
TAGS = [
    lx.symmetric_tag,
    lx.unit_diagonal_tag,
    lx.lower_triangular_tag,
    lx.positive_semidefinite_tag,
    lx.negative_semidefinite_tag,
]


def test_operators_of_lineax_keep_their_tags():
    structure, dense = jax.ShapeDtypeStruct((3,), float), jnp.eye(3)
    kinds = [
        lx.DiagonalLinearOperator(jnp.ones(3)),
        lx.IdentityLinearOperator(structure),
    ]
    kinds += [lx.TridiagonalLinearOperator(jnp.ones(3), jnp.ones(2), jnp.ones(2))]
    for tag in TAGS:
        kinds += [
            lx.MatrixLinearOperator(dense, tag),
            lx.FunctionLinearOperator(lambda x: x, structure, tag),
            lx.JacobianLinearOperator(lambda x, _: x**3, jnp.ones(3), tags=tag),
            lx.TaggedLinearOperator(lx.DiagonalLinearOperator(jnp.ones(3)), tag),
        ]
    kinds += [change(x) for x in kinds for change in (lambda x: -x, lambda x: x.T)]
    kinds += [3.0 * x for x in kinds[:3]] + [
        x @ y for x in kinds[:8] for y in kinds[:8]
    ]
    for operator in kinds:
        ours = lf.as_operator(operator)
        for predicate in PREDICATES:
            assert predicate(ours) or not predicate(operator), (operator, predicate)
        assert relative_error(ours.as_matrix(), operator.as_matrix()) < 1e-14


@pytest.mark.parametrize("over", ["one array", "a batch"])
def test_gradients_on_an_explicit_mesh_live_where_vectors_do(over):
    kernel = jnp.asarray(normal(rng(0), (3, 3), float))
    images = jnp.asarray(normal(rng(1), (4, 6, 5), float))

    def loss(images):
        if over == "one array":
            out = lf.Convolution(kernel, images.shape).mv(images)
        else:
            out = jax.vmap(lf.Convolution(kernel, images.shape[1:]).mv)(images)
        return jnp.sum(out**2)

    want = jax.grad(loss)(images)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.NamedSharding(mesh, jax.P("i"))
    with jax.set_mesh(mesh):
        got = jax.jit(jax.grad(loss))(jax.device_put(images, sharding))
    assert jax.typeof(got).sharding.spec[0] == "i"
    assert relative_error(got, want) < 1e-13


def test_gradients_inside_shard_map():
    kernel = jnp.asarray(normal(rng(0), (3, 3), float))
    images = jnp.asarray(normal(rng(1), (4, 6, 5), float))

    def loss(kernel, image):
        return jnp.sum(lf.Convolution(kernel, (6, 5), method="fft").mv(image) ** 2)

    def part(kernel, images):
        return jax.lax.psum(loss(kernel, images[0]), "i")

    mesh = jax.make_mesh((4,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P(), jax.P("i"))
    mapped = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=jax.P())
    got = jax.jit(jax.grad(mapped, argnums=(0, 1)))(kernel, images)
    total = lambda kernel, images: sum(loss(kernel, image) for image in images)
    want = jax.grad(total, argnums=(0, 1))(kernel, images)
    assert relative_error(got, want) < 1e-13


class Symmetric(lf.AbstractOperator):
    """Its transposed product is its product, and says so by calling it."""

    kernel: jax.Array

    def mv(self, vector):
        return jnp.convolve(vector, self.kernel, mode="same")

    def rmv(self, vector):
        return self.mv(vector)

    def in_structure(self):
        return jax.ShapeDtypeStruct((6,), self.kernel.dtype)


@pytest.mark.float32
def test_a_transposed_product_may_call_the_product():
    kernel = jnp.asarray([0.2, 1.0, 0.2], dtype_of("real"))
    operator = Symmetric(kernel)
    matrix = np.asarray(operator.as_matrix())
    x = jnp.arange(6, dtype=kernel.dtype)
    for product in (operator.mv, operator.rmv):
        slope = jax.grad(lambda x, f=product: jnp.sum(f(x) ** 2))(x)
        np.testing.assert_allclose(slope, 2 * matrix.T @ matrix @ x, rtol=1e-5)
    loss = lambda k: jnp.sum(lf.lstsq(Symmetric(k), x, lf.LSMR()).value ** 2)
    step = 1e-3 * jnp.asarray([1.0, 0.0, 1.0], kernel.dtype)
    change = (loss(kernel + step) - loss(kernel - step)) / 2
    np.testing.assert_allclose(
        jnp.vdot(jax.grad(loss)(kernel), step), change, rtol=1e-2
    )
