"""A library of thousands of adapters as people have them: true headers, and holes where the numbers would be."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import adapterhub.architectures as architectures
from adapterhub.tensors import Shape

_TRAINED = (".attn1.", ".attn2.", ".ff.net.", "proj_in", "proj_out", ".self_attn.", ".mlp.")
_SYLLABLES = "ka ri mo ta shi ne lu va or en is du bel gra mer ton sil vor qui pax".split()
_MIX = (("sd1", 32, "kohya", 50), ("sdxl", 16, "kohya", 10), ("sdxl", 32, "kohya-unet", 15), ("sd1", 16, "diffusers", 10),
        ("sdxl", 8, "diffusers", 5), ("sd1", 0, "embedding", 10))  # fmt: skip
"""Architecture, rank, layout and how many of a hundred."""


def library(folder: Path, count: int) -> None:
    """`count` files in folders of 500."""
    random.seed(0)
    made = {row: _header(*row[:3]) for row in _MIX}
    weights = [row[3] for row in _MIX]
    for number in range(count):
        row = random.choices(_MIX, weights)[0]
        tensors, alphas, size = made[row]
        place = folder / f"{number // 500:03}" / f"{name(number)}.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        head = ('{"__metadata__":' + _compact(_metadata(number, row[0], row[1], row[2])) + tensors).encode()
        head += b" " * (-len(head) % 8)
        with place.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head + alphas)
            file.truncate(8 + len(head) + size)


def _compact(value: object) -> str:
    """JSON as safetensors writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def name(number: int) -> str:
    """A name of its own, of made-up words."""
    state = random.Random(number)
    words = ["".join(state.choices(_SYLLABLES, k=3)) for _ in range(2)]
    return f"{'_'.join(words)}_{number}"


def _header(architecture: str, rank: int, layout: str) -> tuple[str, bytes, int]:
    """The tensors of a header behind its metadata, alphas first; the bytes of the alphas; all bytes of the data."""
    rows: dict[str, Shape] = {}
    alphas: list[str] = []
    if layout == "embedding":
        rows["emb_params"] = (4, 768)
    for component, module, spelled, shape in _modules(architecture) if rank else ():
        if layout == "kohya-unet" and component != "unet":
            continue
        down, up = (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))
        if layout.startswith("kohya"):
            head = f"{_PREFIXES[architecture][component]}_{spelled.replace('.', '_')}"
            rows |= {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up}
            alphas.append(f"{head}.alpha")
        else:
            rows |= {f"{component}.{module}.lora_A.weight": down, f"{component}.{module}.lora_B.weight": up}
    at, text = 0, ""
    for alpha in alphas:
        text += f',"{alpha}":{{"dtype":"F16","shape":[],"data_offsets":[{at},{at + 2}]}}'
        at += 2
    for key, shape in rows.items():
        size = 2
        for length in shape:
            size *= length
        text += f',"{key}":{{"dtype":"F16","shape":{_compact(shape)},"data_offsets":[{at},{at + size}]}}'
        at += size
    return f"{text}}}", b"\x00\x4c" * len(alphas), at


_PREFIXES = {"sd1": {"unet": "lora_unet", "text_encoder": "lora_te"},
             "sdxl": {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}}  # fmt: skip


def _modules(name: str) -> list[tuple[str, str, str, Shape]]:
    """Component, path, what Kohya calls the path, and shape of every module that is trained."""
    model = architectures.get(name)
    return [
        (component, module, model.module_names(component, "ldm" if name == "sdxl" else "diffusers")[module], shape)
        for component, weights in model.weights.items()
        for module, shape in weights.items()
        if component != "vae" and len(shape) > 1 and any(part in f".{module}" for part in _TRAINED)
    ]


def _metadata(number: int, architecture: str, rank: int, layout: str) -> dict[str, str]:
    """What Kohya's trainer writes, with the tags of a few dozen pictures."""
    if not layout.startswith("kohya"):
        return {"format": "pt"}
    state = random.Random(number)
    tags = {"".join(state.choices(_SYLLABLES, k=2)): state.randint(1, 40) for _ in range(150)}
    return {
        "ss_network_dim": str(rank), "ss_network_alpha": "16.0", "ss_network_module": "networks.lora",
        "ss_output_name": name(number), "ss_base_model_version": "sdxl_base_v1-0" if architecture == "sdxl" else "sd_v1",
        "ss_v2": "False", "ss_sd_model_name": "base.safetensors", "ss_tag_frequency": json.dumps({"10_set": tags}),
        "ss_training_started_at": str(1.7e9 + number), "ss_steps": "2000", "ss_epoch": "10",
    }  # fmt: skip


if __name__ == "__main__":
    library(Path(sys.argv[1]), int(sys.argv[2]))
