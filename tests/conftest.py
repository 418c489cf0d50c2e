"""Strict numerics, run-time type checks and reproducible keys for every test.

JAX reads XLA_FLAGS once and jaxtyping's hook sees only later imports, so the order in
this file matters: environment, JAX, hook, and `lsqflow` only in the test modules.
"""

import os
import zlib

_FLAGS = {"--xla_force_host_platform_device_count": 8}
if os.environ.get("LSQFLOW_OPTIMISE", "0") == "0":
    # Half of the time of the tests is spent in the compiler.
    _FLAGS["--xla_backend_optimization_level"] = 0
    _FLAGS["--xla_llvm_disable_expensive_passes"] = "true"
_GIVEN = os.environ.get("XLA_FLAGS", "")
_ADDED = [f"{flag}={x}" for flag, x in _FLAGS.items() if flag not in _GIVEN]
os.environ["XLA_FLAGS"] = " ".join([_GIVEN, *_ADDED]).strip()

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", os.environ.get("LSQFLOW_X64", "1") != "0")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

jaxtyping.install_import_hook("lsqflow", "beartype.beartype")


@pytest.fixture
def key(request):
    """Return a PRNG key that depends on the test's name and parameters alone."""
    return jax.random.key(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def _own_checks(monkeypatch):
    """Without the run-time type checker, as users have it, our own messages show."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drop a module's compiled programs: a long session would keep all of them."""
    yield
    jax.clear_caches()
