"""Real inputs for the decoder of the Piper voice: run the rest of the voice on sentences.

    python benchmarks/piper_features.py OUT

Each file holds one float32 array [1, 192, frames], the input of the HiFi-GAN decoder inside of the
whole VITS graph. The phonemes are drawn from the voice's own table, with its pauses between them,
which gives speech-like features without a phonemizer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from leangan import zoo

FEATURES = "/Mul_7_output_0"
SENTENCES = 24


def main() -> int:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    model = onnx.load(zoo.files("hifigan-piper-joe")[0])
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(FEATURES))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    for number in range(SENTENCES):
        letters = rng.integers(14, 40, 60)  # where the voice's table has its plain letters
        ids = np.zeros(2 * len(letters) + 1, np.int64)
        ids[1::2] = letters
        inputs = {
            "input": np.concatenate([[1], ids, [2]])[None],
            "input_lengths": np.array([len(ids) + 2]),
            "scales": np.array([0.667, 1.0, 0.8], np.float32),
        }
        (features,) = session.run([FEATURES], inputs)
        np.save(out / f"sentence-{number:02d}.npy", features.astype(np.float32))
        print(f"sentence-{number:02d}.npy {features.shape}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
