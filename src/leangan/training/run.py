"""The folder of a run: settings, checkpoint, log and samples, so that it can go on after anything.

settings.json     what was asked for; a run goes on only with the same
environment.json  the machine and the versions
log.jsonl         losses, rate and speed, a line every few seconds; events.* for TensorBoard
checkpoint.pt     weights, optimizer and position: raw tensors, opened without a pickle
samples/          sheets of held-out samples: input, teacher, student
examples/         inputs with the teacher's outputs
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard.writer import SummaryWriter

from leangan.errors import LeanganError, UsageError
from leangan.files import atomic
from leangan.measure.environment import environment
from leangan.training.processes import is_first


class RunFolder:
    """One run on disk; of several processes only the first writes."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Begin a run, or open it again.

        Raises:
            UsageError: there is a run already and `resume` is not set, or it had other settings.
            LeanganError: the folder cannot be written to.
        """
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._new = False
        wanted = json.loads(json.dumps(settings))
        file = folder / "settings.json"
        if file.exists() or not is_first():
            found = json.loads(file.read_text(encoding="utf-8"))
            if not resume and is_first():
                raise UsageError(
                    f"{folder} holds a run already: --resume goes on with it, another -o begins a "
                    "new one."
                )
            for key in wanted:
                if found.get(key) != wanted[key]:
                    raise UsageError(
                        f"The run in {folder} had {key} {found.get(key)!r}, not {wanted[key]!r}: "
                        "a run goes on only with what it began with."
                    )
            return
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty, and holds no run; choose another folder.")
        self._new = True
        self.write("environment.json", environment(torch.get_num_threads()))
        self.write("settings.json", wanted)  # last: with it the run begins

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Take a new run back where the block is refused: the next try is a new one too."""
        try:
            yield
        except LeanganError:
            if self._new:
                for left in self.folder.iterdir():
                    left.unlink()
            raise

    def write(self, name: str, facts: Any) -> None:
        """Write JSON."""
        if not is_first():
            return
        with atomic(self.folder / name) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def read(self, name: str) -> Any:
        """JSON that `write` wrote, None where there is none."""
        file = self.folder / name
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; whenever this is cut short, the old one is still there."""
        if not is_first():
            return
        with atomic(self.folder / "checkpoint.pt") as temporary:
            torch.save(dict(state), temporary)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, None before the first.

        Raises:
            LeanganError: it is damaged.
        """
        file = self.folder / "checkpoint.pt"
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes PyTorch raise
            raise LeanganError(f"{file} is damaged; begin again in another folder.") from error
        return state

    def log(self, step: int, facts: Mapping[str, float]) -> None:
        """One line, here and for TensorBoard."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **facts}) + "\n")
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder), purge_step=step)
        for name, value in facts.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def forget_after(self, step: int) -> None:
        """Take back the lines that a run wrote after the checkpoint that it goes on from."""
        file = self.folder / "log.jsonl"
        if not file.exists() or not is_first():
            return
        kept = []
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except ValueError:  # the last line of a process that was killed
                continue
        with atomic(file) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def close(self) -> None:
        """Flush what TensorBoard reads."""
        if self._writer is not None:
            self._writer.close()
