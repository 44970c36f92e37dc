"""leangan doctor: what this machine can do, and what an issue report needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from leangan.cli import options
from leangan.cli.output import answer
from leangan.cli.progress import progress

EPILOG = """\b
Examples:
  leangan doctor
  leangan doctor --json"""


def command(json_: options.Json = False) -> None:
    """Say what this machine can do, and try every runtime."""
    with answer(json_) as say:
        from leangan.measure.environment import environment

        with progress() as report:
            report("Trying each runtime")
            facts = {
                "environment": environment(_usable_threads()),
                "runtimes": _runtimes(),
                "cache": _cache(),
            }
        say(facts, *_lines(facts))


def _usable_threads() -> int:
    """Cores that this process may run on, which a container may have cut."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _runtimes() -> dict[str, dict[str, Any]]:
    """By name: what it runs here and whether a tiny model got through it, or how to install it."""
    from leangan import runtimes

    found: dict[str, dict[str, Any]] = {}
    for runtime in runtimes.known():
        missing = runtime.missing()
        if missing:
            found[runtime.name] = {"ok": False, "install": missing}
            continue
        facts: dict[str, Any] = {
            "float": list(runtime.precisions(quantized=False)),
            "quantized": list(runtime.precisions(quantized=True)),
        }
        if not runtime.runs_here:
            found[runtime.name] = {**facts, "ok": True, "elsewhere": True}
            continue
        try:
            difference = _try(runtime)
            # Fixed point and the like are not that exact.
            most = 1e-3 if facts["float"][0] == "fp32" else 2e-2
            facts |= {"ok": difference < most, "largest_difference": difference}
        except Exception as error:  # a broken installation fails in ways of its own
            facts |= {"ok": False, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        found[runtime.name] = facts
    return found


def _try(runtime: Any) -> float:
    """Largest difference of a tiny model to PyTorch, in the runtime's plainest precision."""
    import torch

    from leangan import runtimes, sources
    from leangan.measure.latency import Worker

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh()).eval()
    generator = sources.load(module, example_inputs=torch.zeros(1, 3, 16, 16))
    generator = runtimes.fitting(generator, runtime)
    inputs = generator.example()
    with tempfile.TemporaryDirectory() as folder:
        precision = runtime.precisions(quantized=False)[0]
        artifact = runtime.build(generator, Path(folder), precision)
        with Worker(artifact, 1) as worker:  # what runtimes print of themselves stays there
            output = torch.from_numpy(worker.run([x.numpy() for x in inputs])[0])
    return float((output - generator.outputs(*inputs)[0]).abs().max())


def _cache() -> dict[str, Any]:
    from leangan.zoo.fetch import cache

    folder = cache()
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    return {
        "folder": str(folder),
        "bytes": sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()),
        "free_bytes": shutil.disk_usage(existing).free,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    from leangan.report.words import size

    machine, cache = facts["environment"], facts["cache"]
    versions = {"python": machine["python"], **machine["packages"]}
    lines = [
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"{machine['system']}, {machine['cpu']}, {machine['threads']} threads",
        f"instructions: {' '.join(machine['instructions']) or 'none that we look for'}",
    ]
    for name, found in facts["runtimes"].items():
        if "install" in found:
            lines.append(f"{name}: not here; it needs: {found['install']}")
            continue
        runs = ", ".join([*found["float"], *found["quantized"]])
        if "elsewhere" in found:
            lines.append(f"{name}: writes files that run on another system; {runs}")
            continue
        said = "works" if found["ok"] else f"FAILS: {found.get('error', 'wrong output')}"
        lines.append(f"{name}: {said}; runs {runs}")
    lines.append(
        f"cache: {cache['folder']}, {size(cache['bytes'])}; {size(cache['free_bytes'])} free"
    )
    return lines
