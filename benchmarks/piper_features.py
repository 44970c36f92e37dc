"""Real inputs for the decoder of the Piper voice: run the rest of the voice on sentences.

    python benchmarks/piper_features.py OUT

Each file holds one float32 array [1, 192, frames], the input of the HiFi-GAN decoder inside of the
whole VITS graph (a frame is 256 samples at 22.05 kHz).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from leangan import zoo

FEATURES = "/Mul_7_output_0"
# The Harvard sentences (IEEE 1969, list 1 and 2, public domain) in the voice's own phonemes.
SENTENCES = (
    "ðə bˈɜːtʃ kənˈuː slˈɪd ˌɔn ðə smˈuːð plˈæŋks.",
    "ɡlˈuː ðə ʃˈiːt tə ðə dˈɑːɹk blˈuː bˈækɡɹaʊnd.",
    "ɪts ˈiːzi tə tˈɛl ðə dˈɛpθ əv ɐ wˈɛl.",
    "ðiːz dˈeɪz ɐ tʃˈɪkɪn lˈɛɡ ɪz ɐ ɹˈɛɹ dˈɪʃ.",
    "ɹˈaɪs ɪz ˈɔfən sˈɜːvd ɪn ɹˈaʊnd bˈoʊlz.",
    "ðə dʒˈuːs əv lˈɛmənz mˌeɪks fˈaɪn pˈʌntʃ.",
    "ðə bˈɑːks wʌz θɹˈoʊn bᵻsˈaɪd ðə pˈɑːɹkt tɹˈʌk.",
    "ðə hˈɑːɡz wɜː fˈɛd tʃˈɑːpt kˈɔːɹn ænd ɡˈɑːɹbɪdʒ.",
    "fˈoːɹ ˈaʊɚz əv stˈɛdi wˈɜːk fˈeɪst ˌʌs.",
    "ɐ lˈɑːɹdʒ sˈaɪz ɪn stˈɑːkɪŋz ɪz hˈɑːɹd tə sˈɛl.",
    "ðə bˈɔɪ wʌz ðˈɛɹ wɛn ðə sˈʌn ɹˈoʊz.",
    "ɐ ɹˈɑːd ɪz jˈuːzd tə kˈætʃ pˈɪŋk sˈæmən.",
    "ðə sˈoːɹs əv ðə hjˈuːdʒ ɹˈɪvɚ ɪz ðə klˈɪɹ spɹˈɪŋ.",
    "kˈɪk ðə bˈɔːl stɹˈeɪt ænd fˈɑːloʊ θɹˈuː.",
    "hˈɛlp ðə wˈʊmən ɡˈɛt bˈæk tə hɜː fˈiːt.",
    "ɐ pˈɑːt əv tˈiː hˈɛlps tə pˈæs ðə ˈiːvnɪŋ.",
    "smˈoʊki fˈaɪɚz lˈæk flˈeɪm ænd hˈiːt.",
    "ðə sˈɔft kˈʊʃən bɹˈoʊk ðə mˈænz fˈɔːl.",
    "ðə sˈɔlt bɹˈiːz kˈeɪm ɐkɹˈɔs fɹʌm ðə sˈiː.",
    "ðə ɡˈɜːl æt ðə bˈuːθ sˈoʊld fˈɪfti bˈɑːndz.",
)
# The voice's table (its .json file), cut down to what the sentences use.
PHONEMES = {
    " ": 3, ".": 10, "a": 14, "b": 15, "d": 17, "e": 18, "f": 19, "h": 20, "i": 21, "j": 22,
    "k": 23, "l": 24, "m": 25, "n": 26, "o": 27, "p": 28, "s": 31, "t": 32, "u": 33, "v": 34,
    "w": 35, "z": 38, "æ": 39, "ð": 41, "ŋ": 44, "ɐ": 50, "ɑ": 51, "ɔ": 54, "ə": 59, "ɚ": 60,
    "ɛ": 61, "ɜ": 62, "ɡ": 66, "ɪ": 74, "ɹ": 88, "ʃ": 96, "ʊ": 100, "ʌ": 102, "ʒ": 108,
    "ˈ": 120, "ˌ": 121, "ː": 122, "θ": 126, "ᵻ": 128,
}  # fmt: skip
PAD, START, END = 0, 1, 2


def main() -> int:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    model = onnx.load(zoo.files("hifigan-piper-joe")[0])
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(FEATURES))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for number, sentence in enumerate(SENTENCES):
        ids = [START]
        for phoneme in sentence:
            ids += [PAD, PHONEMES[phoneme]]
        ids += [PAD, END]
        inputs = {
            "input": np.array([ids]),
            "input_lengths": np.array([len(ids)]),
            "scales": np.array([0.667, 1.0, 0.8], np.float32),
        }
        (features,) = session.run([FEATURES], inputs)
        np.save(out / f"sentence-{number:02d}.npy", features.astype(np.float32))
        print(f"sentence-{number:02d}.npy {features.shape}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
