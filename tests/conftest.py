"""Strict numerics, run-time type checks and reproducible keys for every test.

JAX reads XLA_FLAGS once and jaxtyping's hook sees only later imports, so the order in
this file matters: environment, JAX, hook, and `lsqflow` only in the test modules.
"""

import os
import zlib

_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

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


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drop a module's compiled programs: a long session would keep all of them."""
    yield
    jax.clear_caches()
