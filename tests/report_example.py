"""A report as `compress` makes one, with all that can be awkward in it."""

import base64
import struct
import zlib


def entry(
    name, runtime="openvino", precision="int8+bf16", *, p50=30.0, speedup=10.0, psnr=45.0, **changes
):
    made = {
        "name": name,
        "runtime": runtime,
        "precision": precision,
        "threads": 2,
        "latency_ms": {"p50": p50, "p90": p50 * 1.05, "first": p50 * 3},
        "speedup": speedup,
        "size_bytes": 11_700_000,
        "size_bytes_zip": 9_900_000,
        "params": 11_378_179,
        "macs": 49_600_000_000,
        "int8_share": 0.94 if "int8" in precision else 0.0,
        "peak_memory_bytes": 412_000_000,
        "quality": {
            "psnr": {"mean": psnr, "worst": psnr - 2.6, "n": 16},
            "ssim": {"mean": 0.9951, "worst": 0.9902, "n": 16},
            "perceptual": {"mean": 0.0021, "worst": 0.0054, "n": 16},
        },
        "file": None,
        "slower_than_float": False,
        "error": None,
    }
    return made | changes


def example():
    best = entry(
        "openvino int8, 2 layers bf16", p50=34.5, speedup=11.6, psnr=50.5, file="model.xml"
    )
    big = {"size_bytes": 45_600_000, "size_bytes_zip": 42_300_000}
    return {
        "schema": 1,
        "model": "zoo:cyclegan-vintage",
        "task": "translation",
        "environment": {
            "cpu": "Intel(R) Xeon(R) Processor, AVX-512, VNNI, AMX",
            "cores": 2,
            "threads": 2,
            "os": "Linux 6.1",
            "versions": {"leangan": "0.1.0", "torch": "2.14.1", "openvino": "2026.4.0"},
        },
        "original": entry("original", "torch", "fp32", p50=399.0, speedup=1.0, quality={}, **big),
        "candidates": [
            entry("torch inductor fp32", "torch", "fp32", p50=371, speedup=1.08, psnr=128.0, **big),
            entry(
                "onnxruntime fp32", "onnxruntime", "fp32", p50=375, speedup=1.06, psnr=127.0, **big
            ),
            entry("openvino fp32", precision="fp32", p50=333, speedup=1.2, psnr=126.0, **big),
            entry("openvino bf16", precision="bf16", p50=55, speedup=7.3, psnr=62.5, **big),
            entry("openvino int8, all layers", p50=34.0, speedup=11.7, psnr=44.6),
            best,
            entry(
                "onnxruntime int8",
                "onnxruntime",
                "int8",
                p50=460,
                speedup=0.87,
                psnr=44.1,
                slower_than_float=True,
            ),
            entry("openvino int8, min-max", p50=34.2, speedup=11.65, psnr=23.3),
            entry(
                "torch inductor bf16",
                "torch",
                "bf16",
                latency_ms=None,
                speedup=None,
                quality={},
                error="No C++ compiler was found, which inductor needs; install g++.",
            ),
        ],
        "delivered": best,
        "floor": "psnr>=45",
        "notes": [
            "IMG_2031.png: alpha channel dropped.",
            "Big pictures are not tiled: InstanceNorm.",
        ],
    }


def picture(shade, size=96):
    """A small PNG as a data URI: a ramp with a disc."""
    rows = b""
    for y in range(size):
        rows += b"\0"
        for x in range(size):
            inside = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2
            rows += bytes((min(255, x * 2 + shade), min(255, y * 2), 200 if inside else shade))

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def extras():
    layers = [
        ("model.1", "conv2d", 0.6, 9472),
        ("model.4", "conv2d", 1.2, 73856),
        ("model.7", "conv2d", 1.2, 295168),
    ]
    layers += [
        (f"model.{10 + i // 2}.conv_block.{1 + i % 2 * 4}", "conv2d", 2.4, 590080)
        for i in range(18)
    ]
    layers += [
        ("model.19", "conv_transpose2d", 1.2, 295040),
        ("model.22", "conv_transpose2d", 1.2, 73792),
        ("model.26", "conv2d", 0.6, 9411),
    ]
    return {
        "samples": [
            {
                "name": name,
                "input": picture(10),
                "reference": picture(60),
                "output": picture(61),
                "difference": picture(0),
                "psnr": psnr,
            }
            for name, psnr in (("baboon.png", 50.1), ("monarch.png", 51.9))
        ],
        "layers": [
            {
                "name": name,
                "op": op,
                "macs": macs * 1e9,
                "params": params,
                "sensitivity_db": 48.0 if "transpose" in op else 66.1,
                "precision": "bf16" if "transpose" in op else "int8",
                "why": "costs 6.0 dB and saves no time" if "transpose" in op else "",
            }
            for name, op, macs, params in layers
        ],
        "steps": [
            {"name": "fuse", "settings": {"dropout": 9}, "measured": {"largest_difference": 0.0}},
            {
                "name": "quantize",
                "settings": {"bits": 8, "keep": ["model.19", "model.22"], "observer": "histogram"},
                "measured": {"samples": 32},
            },
        ],
        "command": "leangan compress zoo:cyclegan-vintage --data photos -o out --keep 'psnr>=45'",
        "recipe": "schema: 1\nsteps:\n  - quantize:\n      keep: [model.19, model.22]\n",
    }
