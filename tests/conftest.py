"""Strict numerics, run-time type checks and reproducible keys for every test.

JAX reads XLA_FLAGS once and jaxtyping's hook sees only later imports, so the order in
this file matters: environment, JAX, hook, and `lsqflow` only in the test modules.
"""

import hashlib
import itertools
import os
import pathlib
import platform
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


def _cache_of_programs():
    """Where to keep compiled programs between runs; None, the default, for nowhere.

    Much of the time of the tests is spent in the compiler. Programs that call back to
    the host cannot be kept. JAX 0.10 has crashed while it read a program that other
    processes were writing: use it for one run at a time.
    """
    given = os.environ.get("LSQFLOW_CACHE", "0")
    if given == "0":
        return None
    processor = pathlib.Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    flags = next((x for x in lines if x.startswith(("flags", "Features"))), "")
    kind = hashlib.sha256((platform.platform() + flags).encode()).hexdigest()[:12]
    return str(pathlib.Path(given).expanduser() / kind)


jax.config.update("jax_compilation_cache_dir", _cache_of_programs())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

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


def _maps():
    """How many pieces of memory this process has mapped; 0 where nobody counts them."""
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists():
        return 0
    with maps.open("rb") as lines:
        return sum(1 for _ in lines)


_tests = itertools.count()


@pytest.fixture(autouse=True)
def _bounded_maps():
    """Drop them earlier in a module with many programs.

    A large one maps a hundred pieces of memory. A process may have 65530 of them on
    Linux, and the compiler dies at the next one.
    """
    yield
    if next(_tests) % 5 == 0 and _maps() > 20_000:
        jax.clear_caches()
