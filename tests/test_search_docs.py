"""What docs/python.md and docs/quantization.md show is what happens."""

from __future__ import annotations

import doctest
import functools
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
from PIL import Image

import leangan as lg
from leangan.measure.latency import paired
from leangan.search import lab

DOCS = Path(__file__).parents[1] / "docs"


def test_every_block_of_python_md_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lab, "paired", functools.partial(paired, rounds=2))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    y, x = np.mgrid[0:72, 0:64] / 72
    for i in range(3):
        picture = np.stack([x, y, (x * y + i / 3) % 1], 2)
        Image.fromarray((255 * picture).astype("uint8")).save(f"photos/{i}.png")
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    said = capsys.readouterr().out
    shown = re.search(r"print\(error\)  # (.*)", text)
    assert shown is not None
    assert shown[1] in said
    assert str(names["report"]) in said


def test_the_numbers_of_quantization_md_are_right():
    found = doctest.testfile(str(DOCS / "quantization.md"), module_relative=False)
    assert found.attempted > 10
    assert found.failed == 0


def test_no_package_hides_a_public_word():
    """Importing a subpackage sets an attribute of its name, for good."""
    modules = {m.name for m in pkgutil.iter_modules(lg.__path__)}
    assert not modules & set(lg.__all__)
    for name in modules - {"testing"}:
        importlib.import_module(f"leangan.{name}")
    assert all(callable(getattr(lg, name)) for name in lg.__all__)
    assert set(lg.__all__) <= set(dir(lg))
