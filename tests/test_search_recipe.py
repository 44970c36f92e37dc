"""Recipes: what is written is read, and what a person mistypes is named."""

from __future__ import annotations

import pytest

from leangan.errors import UsageError
from leangan.search.prune_plan import PrunePlan
from leangan.search.recipe import Recipe, read, write

MIXED = {"head": "float", "tail.0": "w8a16"}
FULL = Recipe("openvino", "int8+bf16", ("sink-shuffle",), True, MIXED, 7, 24)


DEEP = Recipe(
    "openvino", "fp32", prune=PrunePlan(weights=0.5), codebook=4, finetune={"steps": 9, "lr": 3e-4}
)


THIN = Recipe("openvino", "int8+bf16", quantize=True, student="tucker:0.5+narrow:0.7")


@pytest.mark.parametrize("recipe", [FULL, Recipe("onnxruntime", "fp32"), DEEP, THIN])
def test_what_is_written_is_read(tmp_path, recipe):
    assert read(write(recipe, tmp_path / "recipe.yaml")) == recipe


def test_it_is_a_file_for_people(tmp_path):
    text = write(FULL, tmp_path / "recipe.yaml").read_text()
    assert text.startswith("schema: 1\nruntime: openvino\n")
    assert "layers:\n  head: float\n  tail.0: w8a16\n" in text
    assert "!!" not in text


def test_what_is_left_out_has_a_default(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text("schema: 1\nruntime: openvino\nprecision: bf16\n")
    assert read(path) == Recipe("openvino", "bf16")


def test_recipes_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(BASE + "quantize: true\nkeep_float:\n- head\n- tail.0\n")
    old = read(path)
    assert old.layers == {"head": "float", "tail.0": "float"}
    assert read(write(old, tmp_path / "new.yaml")) == old


BASE = "schema: 1\nruntime: openvino\nprecision: bf16\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "quantise: true\n", r"no 'quantise'.*it has runtime, precision.*quantize"),
        (BASE + "quantize: 1\n", "'quantize' must be true or false"),
        (BASE + "keep_float: head\n", "'keep_float' must be a list of names"),
        (BASE + "layers: [head]\n", "'layers' must say precisions by name"),
        (BASE + "layers: {head: int8}\n", "'layers': head: 'int8' is no precision"),
        (BASE + "codebook: 9\n", "'codebook' is a number of bits"),
        (BASE + "codebook: 4\nquantize: true\n", "'quantize' must be false"),
        (BASE + "student: nets.py:Small\n", "'student': 'nets.py:Small' is no student; there are"),
        (BASE + "student: narrow:0.5+smaller\n", "'student': 'smaller' is no student"),
        (BASE + "finetune: 5\n", "'finetune' must hold settings"),
        (BASE + "finetune: {lr: 1e-4}\n", "'finetune': .*either steps or time"),
        (BASE + "finetune: {steps: 9, rate: 1}\n", "'finetune': .*rate"),
        (BASE + "rewrites: [1]\n", "'rewrites' must be a list of names"),
        (BASE + "rewrites: [sink]\n", "no rewrite 'sink'; there are .*sink-shuffle"),
        (BASE + "seed: one\n", "'seed' must be a whole number"),
        (BASE + "seed: null\n", "'seed' must be a whole number"),
        (BASE + "seed: true\n", "'seed' must be a whole number"),
        (BASE + "limit: 2.5\n", "'limit' must be a whole number"),
        ("schema: 1\nprecision: bf16\n", "'runtime' must say the runtime"),
        ("schema: 1\nruntime: openvino\nprecision: 8\n", "'precision' must say the precision"),
        (BASE.replace("1", "2"), "no recipe of schema 1"),
        ("runtime: openvino\nprecision: bf16\n", "no recipe of schema 1"),
        ("- schema\n", "no recipe of schema 1"),
        ("", "no recipe of schema 1"),
        ("a: [unclosed", "cannot be read as a recipe"),
        (BASE + "seed: !!python/object/apply:os.getpid []\n", "cannot be read as a recipe"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read(path)
    assert "mine.yaml" in str(caught.value)


def test_bytes_that_are_no_text_are_no_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"mine\.yaml cannot be read"):
        read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read"):
        read(tmp_path / "none.yaml")


def test_a_learning_rate_may_be_written_as_people_do(tmp_path):
    path = tmp_path / "rate.yaml"
    path.write_text(BASE + "finetune: {steps: 9, lr: 1e-4}\n")
    assert read(path).finetune == {"steps": 9, "lr": 1e-4}
