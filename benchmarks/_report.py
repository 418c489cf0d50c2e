"""Markdown: the header that makes a run reproducible, tables, and bars."""

import importlib.metadata
import os
import platform
from pathlib import Path

import jax

PACKAGES = (
    "lsqflow",
    "jax",
    "jaxlib",
    "equinox",
    "lineax",
    "matfree",
    "scipy",
    "numpy",
)


def header() -> None:
    """Machine, versions and flags, as a list."""
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor()
    if cpuinfo.exists():
        names = [
            x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")
        ]
        model = names[0].partition(":")[2].strip() if names else model
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"- Machine: {model}, {os.cpu_count()} cores, {platform.platform()}")
    print(f"- Load before the run (1, 5, 15 minutes): {load}")
    print(f"- Python {platform.python_version()}, {versions}")
    print(f"- Device: {jax.devices()[0].device_kind}, float64 unless said otherwise")
    print(f"- XLA_FLAGS: {os.environ.get('XLA_FLAGS') or 'none'}")


def table(columns: list[str], rows: list[list[object]]) -> None:
    """A markdown table; floats with three significant digits."""
    body = [columns, *([_cell(x) for x in row] for row in rows)]
    widths = [max(len(row[i]) for row in body) for i in range(len(columns))]
    body.insert(1, ["-" * w for w in widths])
    print()
    for row in body:
        print(
            "| "
            + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
            + " |"
        )
    print(flush=True)


def at_most(value: float, bar: float) -> str:
    """The bar, and whether it is met."""
    return f"≤ {bar:g}: {'met' if value <= bar else 'NOT met'}"


def at_least(value: float, bar: float) -> str:
    """The bar, and whether it is met."""
    return f"≥ {bar:g}: {'met' if value >= bar else 'NOT met'}"


def _cell(x: object) -> str:
    if isinstance(x, float):
        return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"
    return str(x)
