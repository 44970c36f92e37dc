import re
from html.parser import HTMLParser

import pytest
from report_example import entry, example, extras, picture

from leangan.report.html import render, write_html
from leangan.report.plot import Box, trade_off


class Page(HTMLParser):
    """Collects tags and text, and checks that what is opened is closed."""

    VOID = frozenset({"meta", "img", "rect", "line", "path", "circle"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def test_the_page_holds_every_part_in_order():
    words = Page(render(example(), extras())).words
    parts = [
        "runs 11.6× as fast as the original",
        "Speed against quality",
        "Every version that was tried",
        "slower than float",
        "Samples",
        "Layer by layer",
        "costs 6.0 dB and saves no time",
        "Notes",
        "What was done",
        "Make it again",
        "--keep 'psnr>=45'",
        "recipe.yaml",
        "AMX",
    ]
    place = 0
    for part in parts:
        place = words.find(part, place)
        assert place >= 0, part


def test_nothing_is_fetched_from_anywhere():
    page = Page(render(example(), extras()))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert name not in ("href", "srcset", "onload", "onerror")
            if name == "src":
                assert value.startswith("data:image/")
    assert not re.search(r"url\(|@import", render(example(), extras()))


def test_hostile_text_is_escaped_everywhere():
    bad = '"><script>alert(1)</script>'
    report = example() | {"model": bad, "notes": [bad], "task": bad, "environment": {bad: bad}}
    report["candidates"] = [entry(bad, error=bad), entry(bad + "2", file=bad)]
    report["delivered"] = entry(bad, precision=bad, file=bad)
    report["original"] = entry(bad, quality={bad: {"mean": 1.0, "worst": 1.0, "n": 1}})
    more = {
        "samples": [{"name": bad, "input": 'data:image/png;base64,"onerror="x', "psnr": 1.0}],
        "layers": [
            dict.fromkeys(("name", "op", "precision", "why"), bad)
            | {"macs": 1, "params": 1, "sensitivity_db": 1.0}
        ],
        "steps": [{"name": bad, "settings": {bad: [bad]}, "measured": {}}],
        "command": bad,
        "recipe": bad,
    }
    page = Page(render(report, more))
    assert "script" not in [tag for tag, _ in page.tags]
    assert not any("onerror" in attributes for _, attributes in page.tags)


def test_pictures_that_would_be_fetched_are_left_out():
    sample = {"name": "a", "input": "https://example.org/x.png", "output": picture(1, 4)}
    page = render(example(), {"samples": [sample]})
    assert "example.org" not in page
    assert page.count("<img") == 1


def test_a_report_without_extras_and_without_success_is_whole():
    report = example() | {"delivered": None, "notes": []}
    report["candidates"][0] = report["candidates"][0] | {"file": "best.xml"}
    words = Page(render(report, {})).words
    assert "No faster version with a PSNR of at least 45 dB was found." in words
    assert "still in best.xml" in words
    assert "Samples" not in words


def test_a_report_in_which_nothing_could_be_measured_still_renders():
    report = example() | {"delivered": None, "floor": None}
    report["candidates"] = [
        entry("a", latency_ms=None, speedup=None, quality={}, error="no luck"),
    ]
    words = Page(render(report, {})).words
    assert "failed: no luck" in words
    assert "Speed against quality" not in words


def test_the_file_is_written_whole(tmp_path):
    path = write_html(example(), extras(), tmp_path / "deep" / "report.html")
    assert path.read_text() == render(example(), extras())
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(("width", "height"), [(940, 460), (380, 430)])
def test_labels_overlap_neither_each_other_nor_the_frame(width, height):
    svg = str(trade_off(example(), width=width, height=height))
    pattern = r'<text class="(label[^"]*)" x="([\d.]+)" y="([\d.]+)">([^<]+)</text>'
    boxes = [
        Box(float(x), float(y) - 11.5, len(text) * 7.1, 15)
        for _, x, y, text in re.findall(pattern, svg)
    ]
    assert len(boxes) >= 6
    for i, one in enumerate(boxes):
        assert one.x >= 0
        assert one.x + one.w <= width
        assert not any(one.meets(other) for other in boxes[:i])


def test_every_measured_version_has_a_mark_with_its_numbers():
    report = example()
    svg = str(trade_off(report, width=940, height=460))
    measured = [e for e in report["candidates"] if not e["error"]]
    assert svg.count("<title>") == len(measured) + 1
    assert "34.5 ms, 11.6×" in svg
    assert svg.count('class="cross"') == 1


def test_faster_lies_right_and_better_lies_up():
    report = example()
    report["candidates"] = [
        entry("slow good", speedup=2, psnr=60),
        entry("fast bad", speedup=8, psnr=50),
    ]
    svg = str(trade_off(report | {"delivered": None}, width=940, height=460))
    marks = re.findall(r'translate\(([\d.]+) ([\d.]+)\)"><title>(\w+)', svg)
    place = {name: (float(x), float(y)) for x, y, name in marks}
    assert place["original"][0] < place["slow"][0] < place["fast"][0]
    assert place["original"][1] < place["slow"][1] < place["fast"][1]


@pytest.mark.parametrize("metric", ["ssim", "perceptual"])
def test_other_metrics_can_be_the_axis(metric):
    sign = ">=" if metric == "ssim" else "<="
    report = example() | {"floor": f"{metric}{sign}0.5"}
    assert Page(render(report, {})).words
    assert "floor 0.5" in str(trade_off(report, width=940, height=460))
