import json
import math

import jsonschema
import pytest
from report_example import entry, example

from leangan.errors import LeanganError
from leangan.measure.entry import Entry, Latency
from leangan.report.json_report import SCHEMA_FILE, write_json


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_example_is_valid_as_written(tmp_path, validator):
    path = write_json(example(), tmp_path / "report.json")
    validator.validate(json.loads(path.read_text()))


def test_the_entry_class_gives_exactly_what_the_schema_asks_for(validator):
    made = Entry("a", "torch", "fp32", 2, Latency(1.0, 1.1, 3.0), 1.0, 5, 4, 3, 2, None, None)
    report = example() | {"original": made.to_json(), "delivered": None}
    validator.validate(report)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("schema", 2),
        ("notes", "text"),
        ("delivered", {}),
        ("original", entry("a", speedup=0)),
        ("original", entry("a", quality={"psnr": {"mean": 1.0}})),
        ("original", entry("a", int8_share=1.5)),
        ("original", entry("a", size_bytes=1.5)),
        ("original", entry("a", surprise=1)),
        ("surprise", 1),
    ],
)
def test_wrong_reports_do_not_pass(validator, where, value):
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(example() | {where: value})


def test_an_infinite_ratio_becomes_null_in_strict_json(tmp_path, validator):
    same = {"psnr": {"mean": math.inf, "worst": math.inf, "n": 3}}
    path = write_json(example() | {"original": entry("a", quality=same)}, tmp_path / "r.json")
    read = json.loads(path.read_text(), parse_constant=pytest.fail)
    validator.validate(read)
    assert read["original"]["quality"]["psnr"]["mean"] is None


def test_nan_is_named_and_nothing_is_written(tmp_path):
    bad = {"psnr": {"mean": math.nan, "worst": 1.0, "n": 3}}
    with pytest.raises(LeanganError, match=r"original\.quality\.psnr\.mean is nan"):
        write_json(example() | {"original": entry("a", quality=bad)}, tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []
