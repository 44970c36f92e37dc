"""plan.yaml: what is written is read, mistakes are named by line, and a plan does what it says."""

from __future__ import annotations

import math

import pytest
import torch
from task_nets import Smooth, image_generator

from leangan.errors import UsageError
from leangan.search.precision_plan import (
    LayerFacts,
    PrecisionPlan,
    apply_plan,
    calibrate_plan,
    read_plan,
    write_plan,
)
from leangan.techniques.scheme import Scheme

PLAN = PrecisionPlan(
    {"head": "w8a8", "body.0": "float", "body.10": "w8a16", "on": "w8", "1": "w4"},
    "w4a8",
    "zoo:some: thing",
    Scheme(per="group", group=16, step="minmax", equalize=False),
    {"head": LayerFacts(52.31, 0.921, 0.4712, 0.12), "body.0": LayerFacts(float_ms=1.0)},
)


def test_what_is_written_is_read(tmp_path):
    found = read_plan(write_plan(PLAN, tmp_path / "plan.yaml"))
    assert (found.layers, found.default, found.model) == (PLAN.layers, "w4a8", PLAN.model)
    assert found.scheme == PLAN.scheme
    assert list(found.layers) == list(PLAN.layers), "in the same order"


@pytest.mark.parametrize("plan", [PrecisionPlan({}), PrecisionPlan({"a": "float"}, "float")])
def test_little_plans_are_read_too(tmp_path, plan):
    assert read_plan(write_plan(plan, tmp_path / "plan.yaml")) == plan


def test_it_is_a_file_for_people(tmp_path):
    lines = write_plan(PLAN, tmp_path / "plan.yaml").read_text().splitlines()
    assert lines[0].startswith("# The precision of each layer")
    assert "  head: w8a8      # alone 52.3 dB; 0.92 -> 0.47 ms; 12.0% of the MACs" in lines
    assert "  body.0: float" in lines, "nothing is said where only one time is known"
    settings = lines[lines.index("scheme:") + 1 : lines.index("default: w4a8")]
    assert settings == ["  per: group", "  group: 16", "  step: minmax", "  equalize: false"]


def test_an_edited_plan_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("schema: 1\n\n# mine\nlayers:\n  'a.b': float # noisy\n  \"c\": w8a8\n")
    assert read_plan(path) == PrecisionPlan({"a.b": "float", "c": "w8a8"})


HEAD = "schema: 1\nlayers:\n  head: float\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "  tail: int8\n", r"line 4: tail: 'int8' is no precision.*w8a8"),
        (HEAD + "  tail: w9a8\n", r"line 4: tail: 'w9a8' is no precision"),
        (HEAD + "  tail: [w8a8]\n", r"line 4: 'tail' must be one word"),
        (HEAD + "  tail:\n", r"line 4: tail: '' is no precision"),
        (HEAD + "  head: w8a8\n", r"line 4: 'head' stands there twice, first in line 3"),
        (HEAD + "  [a, b]: w8a8\n", r"line 4: a name was expected"),
        (HEAD + "layer: {}\n", r"line 4: a plan has no 'layer'; it has schema, model.*layers"),
        (HEAD + "default: fp32\n", r"line 4: default: 'fp32' is no precision"),
        (HEAD + "scheme: {stepp: mse}\n", r"line 4: a scheme has no 'stepp'; did you mean 'step'"),
        (HEAD + "scheme: {weight_bits: 4}\n", r"line 4: a scheme has no 'weight_bits'"),
        (HEAD + "scheme: {step: best}\n", r"line 4: 'scheme': There is no step 'best'; choose"),
        (HEAD + "scheme: {group: many}\n", r"line 4: 'scheme': "),
        (HEAD + "scheme: mse\n", r"line 4: 'scheme' must hold settings"),
        ("schema: 1\nlayers: [head]\n", r"line 2: 'layers' must say a precision for each layer"),
        ("schema: 1\n", r"'layers' is missing"),
        ("schema: 2\nlayers: {}\n", r"no plan of precisions of schema 1"),
        ("layers: {}\n", r"no plan of precisions of schema 1"),
        ("- head\n", r"not a plan of precisions; compress writes plan\.yaml"),
        ("", r"not a plan of precisions"),
        ("layers: {head", r"cannot be read as a plan of precisions"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read_plan(path)
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_no_text_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match=r"bytes\.yaml cannot be read"):
        read_plan(tmp_path / "bytes.yaml")


@pytest.fixture(scope="module")
def net():
    return image_generator(Smooth(), size=32)


@pytest.fixture(scope="module")
def data(net):
    return [net.example({"H": 24, "W": 28}, seed=i) for i in range(2)]


def words_of(generator):
    return generator.history[-1].settings["words"]


def test_a_plan_is_applied(net, data):
    made = apply_plan(net, data, PrecisionPlan({"a": "float", "b": "w8"}))
    assert words_of(made) == {"a": "float", "b": "w8", "c": "w8a8"}
    stored = dict(made.program.named_buffers())
    assert {n for n in stored if n.endswith("_int8")} == {"b.weight_int8", "c.weight_int8"}
    (x,) = net.example(seed=9)
    error = float((net(x) - made(x)).square().mean())
    assert 0 < error < 1e-3


def test_more_float_is_closer_to_float(net, data):
    (x,) = net.example(seed=9)

    def error(plan):
        return float((net(x) - apply_plan(net, data, plan)(x)).square().mean())

    one = error(PrecisionPlan({"c": "w4a8"}, "float"))
    assert one > 4 * error(PrecisionPlan({"c": "w8a8"}, "float"))
    assert error(PrecisionPlan({}, "w4a8")) > one


def test_every_layer_gets_numbers_of_its_own_precision(net, data):
    plan = PrecisionPlan({"a": "float", "b": "w4"}, "w8a16", scheme=Scheme(step="minmax"))
    found = calibrate_plan(net, data, plan)
    assert [(n, c.scheme.word) for n, c in found.items()] == [
        ("a", "w8a16"), ("b", "w4"), ("c", "w8a16"),
    ]  # fmt: skip
    assert {c.scheme.step for c in found.values()} == {"minmax"}
    assert all(math.isfinite(c.noise) for c in found.values())


def test_unknown_layers_are_named_with_those_of_a_like_name(net, data):
    with pytest.raises(UsageError, match=r"no layer 'aa'.*it has .*\ba\b"):
        apply_plan(net, data, PrecisionPlan({"aa": "float"}))


def test_a_plan_of_nothing_but_float_is_refused(net, data):
    with pytest.raises(UsageError, match="nothing to quantize"):
        apply_plan(net, data, PrecisionPlan({}, "float"))


def test_the_generator_is_left_alone(net, data):
    before = {n: t.clone() for n, t in net.program.state_dict.items()}
    apply_plan(net, data, PrecisionPlan({}))
    assert all(torch.equal(before[n], t) for n, t in net.program.state_dict.items())
    assert not net.quantized
