"""What numbers were measured on is said with them."""

from __future__ import annotations

import json
import os
import platform

import torch

from leangan.measure.environment import environment


def test_it_says_machine_threads_and_versions():
    facts = environment(3)
    assert facts["threads"] == 3
    assert facts["cores"] == os.cpu_count()
    assert facts["cpu"]
    assert facts["python"] == platform.python_version()
    assert torch.__version__.startswith(facts["packages"]["torch"])
    assert {"leangan", "numpy", "openvino", "onnxruntime"} <= set(facts["packages"])


def test_it_is_plain_json():
    facts = environment(1)
    assert json.loads(json.dumps(facts)) == facts


def test_a_package_that_is_not_there_has_no_version(monkeypatch):
    from leangan.measure import environment as room

    monkeypatch.setattr(room, "PACKAGES", ("numpy", "no-such-package"))
    assert list(environment(1)["packages"]) == ["numpy"]


def test_instruction_sets_are_those_of_the_cpu():
    """PyTorch reads them from the CPU itself."""
    said = set(environment(1)["instructions"])
    if platform.machine() in ("x86_64", "AMD64") and platform.system() == "Linux":
        assert ("avx2" in said) == torch.cpu._is_avx2_supported()
        assert ("avx512_bf16" in said) == torch.cpu._is_avx512_bf16_supported()
