"""report.json: the same facts as the report, for programs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from leangan.errors import LeanganError
from leangan.files import atomic

SCHEMA_FILE = Path(__file__).with_name("schema.json")


def to_text(value: Any) -> str:
    """Indented, strict JSON.

    JSON knows no infinity: the infinite signal-to-noise ratio of identical outputs becomes null.

    Raises:
        LeanganError: a number is NaN, which no measurement may be.
    """
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def write_json(report: dict[str, Any], path: Path | str) -> Path:
    """Write `report` atomically as UTF-8, see docs/report.md for its fields.

    Returns:
        The path written.
    """
    path = Path(path)
    text = to_text(report)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return path


def finite(value: Any, where: str = "report") -> Any:
    """Plain JSON values: tuples as lists, infinity as None.

    Raises:
        LeanganError: NaN or minus infinity, named by where it stands.
    """
    if isinstance(value, dict):
        return {str(k): finite(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value) or value < 0:
            raise LeanganError(f"{where} is {value}, which is no measurement. Please report this.")
        return None
    return value
