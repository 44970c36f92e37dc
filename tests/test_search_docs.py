"""What docs/python.md and docs/quantization.md show is what happens."""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib
import io
import json
import pkgutil
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import leangan as lg
from leangan.measure.latency import paired
from leangan.report.json_report import SCHEMA_FILE
from leangan.search import lab

DOCS = Path(__file__).parents[1] / "docs"
PYTHON = (DOCS / "python.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The names that the blocks of docs/python.md leave, and what they print."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        names = run_blocks(tmp_path_factory.mktemp("python"), patch)
    return names, said.getvalue()


def run_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(lab, "paired", functools.partial(paired, rounds=2))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    y, x = np.mgrid[0:72, 0:64] / 72
    for i in range(3):
        picture = np.stack([x, y, (x * y + i / 3) % 1], 2)
        Image.fromarray((255 * picture).astype("uint8")).save(f"photos/{i}.png")
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PYTHON, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 5
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    return names


def test_every_block_of_python_md_runs(shown):
    names, said = shown
    told = re.search(r"print\(error\)  # (.*)", PYTHON)
    assert told is not None
    assert told[1] in said
    assert str(names["report"]) in said


def keeps_the_schema(line):
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.validate(line, {**schema["$defs"]["entry"], "$defs": schema["$defs"]})
    return line["error"] is None and line["latency_ms"]["p90"] >= line["latency_ms"]["p50"] > 0


def test_evaluate_returns_what_report_md_says(shown):
    names, _ = shown
    found, delivered = names["found"], names["report"].delivered
    assert set(found) == {"a", "b", "quality"}
    assert keeps_the_schema(found["a"])
    assert keeps_the_schema(found["b"])
    assert found["quality"] == found["b"]["quality"]
    assert found["quality"] == delivered["quality"]
    assert (found["a"]["runtime"], found["b"]["runtime"]) == ("torch", "onnxruntime")
    assert found["b"]["size_bytes"] == delivered["size_bytes"]


def test_bench_times_every_precision_beside_pytorch(shown):
    times = shown[0]["times"]
    assert set(times) == {"model", "environment", "entries"}
    assert times["model"] == "Sharpen"
    assert times["environment"]["threads"] == 1
    assert all(keeps_the_schema(line) for line in times["entries"])
    original, *others = times["entries"]
    assert (original["runtime"], original["precision"]) == ("torch", "fp32")
    assert original["speedup"] == 1
    assert "onnxruntime fp32" in [line["name"] for line in others]
    assert all(line["quality"] == {} for line in times["entries"])


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
