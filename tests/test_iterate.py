"""Solves driven from the host, against the same solves in one program."""

import io
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding

import lsqflow as lf

from .helpers import X64, dtype_of, matrix, normal, relative_error, rng

REAL = dtype_of("real")
RTOL = 1e-11 if X64 else 1e-5


def problem(shape=(60, 40), condition=30.0, kind="real"):
    dtype = dtype_of(kind)
    A = matrix(rng(), shape, condition=condition, dtype=dtype)
    return A, normal(rng(1), shape[0], dtype)


def stop_after(steps):
    return lambda progress: progress.num_steps >= steps


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.LSMR(rtol=RTOL), lf.LSQR(rtol=RTOL)])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_the_solution_is_that_of_numpy_and_of_lstsq(kind, solver):
    A, b = problem(kind=kind)
    run = lf.iterate(A, b, solver, chunk=7)
    whole = lf.lstsq(A, b, solver)
    want = np.linalg.lstsq(A, b, rcond=None)[0]
    assert relative_error(run.solution.value, want) < 1e3 * RTOL
    assert relative_error(run.solution.dual, whole.dual) < 1e3 * RTOL
    assert run.solution.stats["num_steps"] == whole.stats["num_steps"]
    assert run.solution.result == lx.RESULTS.successful
    assert run.solution.value.dtype == dtype_of(kind)


def test_history_is_that_of_the_iterates():
    """Entry k has the true residuals of the iterate after k steps."""
    A, b = problem()
    run = lf.iterate(A, b, lf.LSMR(rtol=1e-9), chunk=4)
    np.testing.assert_array_equal(
        run.history["num_steps"], 1 + np.arange(run.solution.stats["num_steps"])
    )
    after = jax.jit(
        lambda k: lf.lstsq(A, b, lf.LSMR(rtol=0.0, max_steps=k), throw=False).value
    )
    for k in (1, 3, 4, 9):
        r = b - A @ np.asarray(after(k))
        got = (run.history[name][k - 1] for name in _NORMS)
        want = np.linalg.norm(r), np.linalg.norm(A.T @ r)
        np.testing.assert_allclose(tuple(got), want, rtol=1e-6)


_NORMS = ("residual_norm", "normal_residual_norm")


def through_equinox(state, like):
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, state)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, like)


def through_orbax(state, path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    arrays, static = eqx.partition(state, eqx.is_array)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(path / "state", jax.tree.leaves(arrays))
        saver.wait_until_finished()
        leaves = saver.restore(path / "state", jax.tree.leaves(arrays))
    arrays = jax.tree.unflatten(jax.tree.structure(arrays), leaves)
    return eqx.combine(arrays, static)


@pytest.mark.float32
@pytest.mark.parametrize("way", ["memory", "pickle", "equinox", "orbax"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_resumption_gives_the_same_bits(way, tmp_path):
    A, b = problem(condition=100.0)
    solver = lf.LSMR(rtol=RTOL)
    whole = lf.iterate(A, b, solver, chunk=5, damp=0.01)
    first = lf.iterate(A, b, solver, chunk=5, damp=0.01, callback=stop_after(15))
    assert int(first.solution.stats["num_steps"]) == 15
    assert first.solution.result != lx.RESULTS.successful
    assert bool(first.solution.stats["stop_reason"] == lf.StopReason.interrupted)
    like = lf.iterate(A, b, lf.LSMR(max_steps=0), damp=0.01, throw=False).state
    state = {
        "memory": lambda: first.state,
        "pickle": lambda: pickle.loads(pickle.dumps(first.state)),
        "equinox": lambda: through_equinox(first.state, like),
        "orbax": lambda: through_orbax(first.state, tmp_path),
    }[way]()
    rest = lf.iterate(A, b, solver, chunk=5, damp=0.01, state=state)
    for name in ("value", "dual", "residual"):
        got, want = getattr(rest.solution, name), getattr(whole.solution, name)
        np.testing.assert_array_equal(got, want)
    for name in (*_NORMS, "num_steps"):
        both = np.concatenate([first.history[name], rest.history[name]])
        np.testing.assert_array_equal(both, whole.history[name])


def test_problems_stated_in_every_way():
    A, b = problem((30, 12))
    L = lf.Difference((12,), axis=0)
    options = {
        "damp": 0.1,
        "weights": rng(2).uniform(0.5, 2, 30),
        "regularizers": [lf.Tikhonov(L, 0.3), lf.Tikhonov(strength=0.2)],
        "x0": rng(3).standard_normal(12),
    }
    solver = lf.LSMR(rtol=1e-12)
    run, whole = lf.iterate(A, b, solver, **options), lf.lstsq(A, b, solver, **options)
    for name in ("value", "residual", "dual", "objective"):
        got, want = getattr(run.solution, name), getattr(whole, name)
        assert relative_error(got, want) < 1e-9, name
    stacked = lf.HStack({"a": A[:, :5], "b": A[:, 5:]})
    pair = lf.iterate(stacked, b, solver).solution.value
    want = np.linalg.lstsq(A, b, rcond=None)[0]
    assert relative_error([pair["a"], pair["b"]], want) < 1e-9


def test_limits():
    A, b = problem(condition=1e3)
    run = lf.iterate(A, b, time_limit=0.0)
    assert bool(run.solution.stats["stop_reason"] == lf.StopReason.interrupted)
    assert len(run.history["num_steps"]) == 1
    with pytest.raises(eqx.EquinoxRuntimeError, match="took `max_steps`"):
        lf.iterate(A, b, lf.LSMR(max_steps=3))
    quiet = lf.iterate(A, b, lf.LSMR(max_steps=3), throw=False)
    assert bool(quiet.solution.stats["stop_reason"] == lf.StopReason.max_steps_reached)
    more = lf.iterate(A, b, lf.LSMR(), state=quiet.state)
    assert more.solution.result == lx.RESULTS.successful
    seen = []
    lf.iterate(A, b, lf.LSMR(rtol=1e-8), chunk=6, callback=seen.append)
    steps = [p.num_steps for p in seen]
    assert steps[:3] == [6, 12, 18]
    assert [p.residual_norm for p in seen] == sorted(
        (p.residual_norm for p in seen), reverse=True
    )


def test_progress_bar(capsys):
    A, b = problem()
    lf.iterate(A, b)
    assert not capsys.readouterr().err  # no terminal here
    lf.iterate(A, b, progress=True)
    shown = capsys.readouterr().err
    assert "LSMR" in shown
    assert "‖r‖" in shown


def test_chunks_compile_nothing_new():
    A, b = problem()
    lf.iterate(A, b, chunk=3)
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        names = []
        patch.setattr("logging.Logger.warning", lambda *a, **_: names.append(a))
        lf.iterate(2 * A, 3 * b, chunk=3)
    assert not [n for n in names if "advance" in str(n)]


BAD = {
    "direct": (TypeError, "goes step by step.*got QR", {"solver": lf.QR()}),
    "chunk": (ValueError, "`chunk` must be a positive integer; got 0", {"chunk": 0}),
    "time": (ValueError, "`time_limit` must be.*seconds; got -1", {"time_limit": -1}),
    "callback": (TypeError, "`callback` must be a function", {"callback": 3}),
    "regularizers": (TypeError, "list", {"regularizers": lf.Tikhonov()}),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.usefixtures("_own_checks")
def test_bad_input(name):
    kind, words, options = BAD[name]
    A, b = problem()
    with pytest.raises(kind, match=words):
        lf.iterate(A, b, **options)


def test_not_under_transformations_and_not_for_other_problems():
    A, b = problem()
    with pytest.raises(TypeError, match=r"cannot run under.*lsqflow\.lstsq"):
        jax.jit(lambda b: lf.iterate(A, b).solution.value)(b)
    state = lf.iterate(A, b).state
    for wrong in ((A.T, b[:40], lf.LSMR()), (A, b, lf.LSQR())):
        with pytest.raises(ValueError, match="another problem or another solver"):
            lf.iterate(*wrong, state=state)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.LSMR, lf.LSQR])
def test_history_inside_jit(solver):
    """The last k norms, NaN in front, under vmap and jit, and free of derivatives."""
    A, b = problem(condition=3.0)
    rtol = 1e-5 if X64 else 1e-3
    run = lf.iterate(A, b, solver(rtol=rtol))
    steps = len(run.history["num_steps"])
    many = jax.jit(
        jax.vmap(lambda b: lf.lstsq(A, b, solver(rtol=rtol, history=5)).stats)
    )
    stats = many(jnp.stack([b, 2 * b]))
    close = 1e-6 if X64 else 1e-2
    for name in _NORMS:
        got, want = stats["history"][name], run.history[name][-5:]
        assert got.shape == (2, 5)
        np.testing.assert_allclose(got[0], want, rtol=close)
        np.testing.assert_allclose(got[1], 2 * want, rtol=close)
    long = lf.lstsq(A, b, solver(rtol=rtol, history=steps + 3)).stats["history"]
    norms = np.asarray(long["residual_norm"])
    assert np.isnan(norms[:3]).all()
    np.testing.assert_allclose(norms[3:], run.history["residual_norm"], rtol=close)
    assert "history" not in lf.lstsq(A, b, solver()).stats
    slope = jax.grad(
        lambda b: jnp.nansum(
            lf.lstsq(A, b, solver(history=5)).stats["history"]["residual_norm"]
        )
    )(jnp.asarray(b))
    assert not np.any(slope)


class Axis:
    """An axis of matplotlib, as far as it is used."""

    def __init__(self):
        self.lines = []

    def semilogy(self, x, y, label=None):
        self.lines.append((np.asarray(x), np.asarray(y), label))

    def set(self, **_):
        pass

    def legend(self):
        pass


def test_plot_convergence():
    A, b = problem()
    run = lf.iterate(A, b)
    short = lf.lstsq(A, b, lf.LSMR(history=4))
    axes = Axis(), Axis()
    lf.plot_convergence({"all": run, "last": short}, axes)
    (steps, norms, label), (last, tail, _) = axes[1].lines
    assert label == "all"
    np.testing.assert_array_equal(norms, run.history["normal_residual_norm"])
    np.testing.assert_array_equal(last, steps[-4:])
    np.testing.assert_allclose(tail, norms[-4:], rtol=1e-6)
    with pytest.raises(ValueError, match="no history"):
        lf.plot_convergence(lf.lstsq(A, b), axes)


@pytest.mark.float32
@pytest.mark.parametrize("solver", [lf.LSMR, lf.LSQR])
def test_a_tighter_tolerance_goes_on(solver):
    """From a state that met a looser one; a met one takes no step."""
    A, b = problem()
    tight = solver(rtol=RTOL)
    whole = lf.iterate(A, b, tight)
    loose = lf.iterate(A, b, solver(rtol=1e-2))
    assert loose.solution.result == lx.RESULTS.successful
    rest = lf.iterate(A, b, tight, state=loose.state)
    np.testing.assert_array_equal(rest.solution.value, whole.solution.value)
    done = lf.iterate(A, b, tight, state=whole.state)
    assert not len(done.history["num_steps"])
    assert done.solution.result == lx.RESULTS.successful


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("i", None), (None, "i"), (None, None)])
def test_devices(kind, spec):
    """On a mesh of eight devices, also when it is not in context; and resumption."""
    A, b = problem((40, 16))
    want = np.linalg.lstsq(A, b, rcond=None)[0]
    mesh = jax.make_mesh((8,), ("i",), axis_types=(kind,))
    sharded = jax.device_put(A, NamedSharding(mesh, jax.P(*spec)))
    solver = lf.LSMR(rtol=1e-11, history=3)
    assert relative_error(lf.lstsq(sharded, b, solver).value, want) < 1e-8
    assert relative_error(lf.lstsq(sharded, b).value, want) < 1e-8
    first = lf.iterate(sharded, b, solver, callback=stop_after(5), chunk=5)
    like = jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, first.state)
    with jax.set_mesh(mesh):
        rest = lf.iterate(sharded, b, solver, state=through_equinox(first.state, like))
    assert relative_error(rest.solution.value, want) < 1e-8
    assert rest.solution.stats["history"]["residual_norm"].shape == (3,)
