"""card.md: the model card that travels with the delivered files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from leangan.report import words
from leangan.report.json_report import finite

_AXES = {"N": "batch", "C": "channels", "H": "height", "W": "width", "T": "time"}


def card(report: Mapping[str, Any], extras: Mapping[str, Any]) -> str:
    """A Markdown model card.

    Args:
        report: report.json's dictionary.
        extras: any of it may be left out:
            `signature`: as `Signature.to_json()`, for inputs and outputs;
            `origin`, `licence`: text, where they are known;
            `data`: what it was calibrated and judged on, in words;
            `command`: the exact command.
    """
    facts: dict[str, Any] = finite(dict(report))
    entry = facts["delivered"] or words.best_found(facts)
    parts = [
        f"# {_text(facts['model'])}, compressed",
        _text(words.headline(facts)) if facts["delivered"] else _not_delivered(facts, entry),
        _origin(facts, extras),
        *_ports(extras.get("signature")),
    ]
    if entry:
        parts.append("## How to run it\n\n" + _how_to_run(entry))
    parts += [
        "## Measured\n\n" + _measured(facts),
        "## Limits\n\n" + _limits(facts, entry),
    ]
    if extras.get("command"):
        parts.append("## Made with\n\n" + _fence(str(extras["command"]), "sh"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _not_delivered(facts: dict[str, Any], entry: dict[str, Any] | None) -> str:
    best = f" The files here are the best that was found: {_text(entry['name'])}." if entry else ""
    return f"**{_text(words.headline(facts))}**{best}"


def _origin(facts: dict[str, Any], extras: Mapping[str, Any]) -> str:
    lines = []
    if facts["task"]:
        lines.append(f"- Task: {_text(facts['task'])}")
    lines.append(f"- Original: {_text(extras.get('origin') or facts['model'])}")
    licence = extras.get("licence")
    lines.append(
        f"- Licence of the weights: {_text(licence)}"
        if licence
        else "- Licence of the weights: that of the original, which its file does not tell"
    )
    if extras.get("data"):
        lines.append(f"- Calibrated and judged on: {_text(extras['data'])}")
    return "\n".join(lines)


def _ports(signature: Mapping[str, Any] | None) -> list[str]:
    if not signature:
        return []
    return [
        f"## {title}\n\n" + "\n".join(_port(port) for port in signature[key])
        for key, title in (("inputs", "Inputs"), ("outputs", "Outputs"))
    ]


def _port(port: Mapping[str, Any]) -> str:
    axes = []
    multiples = port.get("multiple") or [1] * len(port["shape"])
    for letter, size, multiple in zip(port["layout"], port["shape"], multiples, strict=True):
        name = _AXES.get(letter, letter)
        step = f", a multiple of {multiple}" if multiple > 1 else ""
        axes.append(f"{name} {size if size is not None else 'any'}{step if size is None else ''}")
    limits = port.get("range")
    values = f"values from {limits[0]:g} to {limits[1]:g}" if limits else "values unbounded"
    kind = port.get("kind") or "tensor"
    note = ""
    if any(m > 1 for m, s in zip(multiples, port["shape"], strict=True) if s is None):
        note = " Pad other sizes at their end by reflection and cut the output back."
    return f"- `{_text(port['name'])}`: {kind}, float32 [{'; '.join(axes)}], {values}.{note}"


def _how_to_run(entry: dict[str, Any]) -> str:
    file = json.dumps(entry["file"] or "generator.pt2", ensure_ascii=False)
    snippets = {
        "openvino": (
            "import openvino as ov\n\n"
            f'hints = {{"INFERENCE_PRECISION_HINT": "{_hint(entry["precision"])}", '
            '"PERFORMANCE_HINT": "LATENCY"}\n'
            f'model = ov.Core().compile_model({file}, "CPU", hints)\n'
            "output = model(x)[0]  # x: a float32 NumPy array"
        ),
        "onnxruntime": (
            "import onnxruntime as ort\n\n"
            f'session = ort.InferenceSession({file}, providers=["CPUExecutionProvider"])\n'
            "output = session.run(None, {session.get_inputs()[0].name: x})[0]"
        ),
    }
    parts = ["From the command line, pictures of any size and mode, in this folder:"]
    parts.append(_fence("leangan run . photo.jpg -o result.png", "sh"))
    if entry["runtime"] in snippets:
        parts.append(f"In {words.runtime(entry['runtime'])}:")
        parts.append(_fence(snippets[entry["runtime"]], "python"))
    parts.append("In PyTorch, from the generator itself:")
    parts.append(
        _fence(
            'import leangan as lg\n\ngenerator = lg.load("generator.pt2")\n'
            "output = generator(x)  # x: a float32 tensor",
            "python",
        )
    )
    return "\n\n".join(parts)


def _hint(precision: str) -> str:
    """OpenVINO's own choice depends on the machine; this is what was measured."""
    return "bf16" if "bf16" in precision else "f32"


def _measured(facts: dict[str, Any]) -> str:
    metric = words.main_metric(facts["candidates"], facts["floor"])
    quality = words.metric_words(metric)[0] if metric else "quality"
    head = f"| version | runtime | ms p50 / p90 | speed-up | size | {quality} | remark |"
    rows = [head, "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    name = facts["delivered"]["name"] if facts["delivered"] else None
    for entry in [facts["original"], *facts["candidates"]]:
        latency = entry["latency_ms"]
        cells = (
            entry["name"],
            f"{words.runtime(entry['runtime'])} {entry['precision']}",
            " / ".join(words.milliseconds(latency[k]) for k in ("p50", "p90")) if latency else "",
            words.times(entry["speedup"]),
            words.size(entry["size_bytes"]),
            words.quality_words(entry, metric),
            words.remark(entry, name, facts["floor"]),
        )
        rows.append("| " + " | ".join(_text(cell) for cell in cells) + " |")
    machine = "; ".join(f"{k}: {words.plain(v)}" for k, v in facts["environment"].items())
    how = (
        f"\n\nOn {facts['original']['threads']} threads. The speed-up is paired: each version ran "
        "in turns with the original in PyTorch eager float. Quality is against the original's own "
        "output on samples that were not used for calibration."
    )
    return "\n".join(rows) + how + f"\n\n{_text(machine)}"


def _limits(facts: dict[str, Any], entry: dict[str, Any] | None) -> str:
    lines = [
        "- The speed holds for the machine and threads above; measure again elsewhere with "
        "`leangan bench`.",
        "- The quality holds for inputs like those it was judged on.",
    ]
    if entry and "int8" in entry["precision"]:
        lines.append("- Value ranges were calibrated: inputs far outside of them are clipped.")
    lines += [f"- {_text(note)}" for note in facts["notes"]]
    return "\n".join(lines)


def _text(value: Any) -> str:
    """One line in which nothing is Markdown or HTML."""
    line = " ".join(str(value).split())
    for sign in "\\`*_[]<>|":
        line = line.replace(sign, f"\\{sign}" if sign not in "<>" else f"&{'lg'[sign == '>']}t;")
    return line


def _fence(code: str, language: str) -> str:
    """A code block that no text inside can end."""
    fence = "```"
    while fence in code:
        fence += "`"
    return f"{fence}{language}\n{code}\n{fence}"
