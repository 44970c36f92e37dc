"""Opening whatever `run` may be given: a result folder, a deployable file, or any MODEL."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leangan.cli.options import Loading
from leangan.errors import BackendMissing, LeanganError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from leangan.generator import Generator

_DEPLOYED = (".xml", ".onnx")


@dataclass(frozen=True)
class Opened:
    """Something that can be run, and the generator that says what goes in and out."""

    run: Callable[..., Tensor]
    """Takes the inputs in the signature's order, returns the first output."""
    generator: Generator


def open_model(model: str, loading: Loading, threads: int | None) -> Opened:
    """Open `model` to run it.

    Args:
        model: a folder that compress left, a file in it, or anything that `load` takes.
        loading: for models that must be loaded.
        threads: None for all cores.

    Raises:
        LeanganError: it is none of these, or its files are not complete.
    """
    path = Path(model)
    if path.is_dir():
        return _open_deployed(path, None, threads)
    if path.suffix in _DEPLOYED and path.is_file():
        return _open_deployed(_result_folder(path), path, threads)
    generator = loading.load(model)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return Opened(lambda *inputs: generator.outputs(*inputs)[0], generator)


def _result_folder(path: Path) -> Path:
    """The folder around a deployable file that holds its generator."""
    for folder in path.resolve().parents[:3]:
        if (folder / "generator.pt2").is_file():
            return folder
    raise LeanganError(
        f"{path} does not say what its inputs mean; keep the generator.pt2 that compress wrote "
        "in its folder, or run the folder."
    )


def _open_deployed(folder: Path, path: Path | None, threads: int | None) -> Opened:
    """Open the file that the folder's report delivered, or the one named by `path`."""
    import torch

    from leangan import runtimes
    from leangan.archive import open_archive

    for name in ("report.json", "generator.pt2"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} is no folder that leangan compress left: no {name} in it.")
    report = json.loads((folder / "report.json").read_text("utf-8"))
    entries = [report["delivered"], *report["candidates"]]
    kept = [e for e in entries if e and e["file"] and not e["error"]]
    if path is not None:
        kept = [e for e in kept if (folder / e["file"]).resolve() == path.resolve()]
    if not kept:
        raise UsageError(f"The report in {folder} knows of no such deployable file.")
    entry = kept[0]
    runtime = runtimes.get(entry["runtime"])
    missing = runtime.missing()
    if missing:
        raise BackendMissing(f"{runtime.name} is not installed; type: {missing}")
    file = folder / entry["file"]
    if not file.is_file():
        raise LeanganError(f"{file} is missing, though the report lists it; compress again.")
    artifact = runtimes.Artifact(runtime.name, entry["precision"], (file,))
    session = runtime.open(artifact, threads or os.cpu_count() or 1)

    def run(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run([x.numpy() for x in inputs])[0])

    return Opened(run, open_archive(folder / "generator.pt2"))
