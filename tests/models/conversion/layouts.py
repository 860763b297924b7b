"""Tiny checkpoints in the layouts of the hub and of LLaVA's own code, fabricated key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from models.tiny_sources import (
    hf,
    randomise,
    text_config,
    text_tokenizer,
    vision_config,
    write_vision_tower,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

WIDTH, HIDDEN = 16, 32


def tensors_of(folder: Path) -> dict[str, Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors handle, no dictionary)
                assert name not in found
                found[name] = file.get_tensor(name)
    return found


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert set(first) == set(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype, name
        assert torch.equal(tensor, second[name]), name


def language_model(dtype: Any = torch.float16) -> dict[str, Tensor]:
    model = randomise(hf.LlamaForCausalLM(text_config()), 11).to(dtype)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def projector(prefix: str, layers: int = 1, dtype: Any = torch.float16) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(12)
    shapes = {
        "0.weight": (HIDDEN, layers * WIDTH),
        "0.bias": (HIDDEN,),
        "2.weight": (HIDDEN, HIDDEN),
        "2.bias": (HIDDEN,),
    }
    return {
        prefix + name: (torch.randn(shape, generator=draw) * 0.3).to(dtype)
        for name, shape in shapes.items()
    }


def original_config(**extra: Any) -> dict[str, Any]:
    values = text_config().to_dict()
    values |= {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "torch_dtype": "float16",
        "mm_vision_tower": "openai/clip-tiny",
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
        "image_aspect_ratio": "pad",
    }
    values.pop("dtype", None)
    return values | extra


def write_original(
    folder: Path, *, kind: str = "bin", shards: int = 1, index: bool = True, **config: Any
) -> dict[str, Tensor]:
    """A `LlavaLlamaForCausalLM`; returns its tensors."""
    folder.mkdir(parents=True)
    inside = "projector." if config.get("normalize_projector") else ""
    inside = "proj." + inside if config.get("compression_after_projection") else inside
    tensors = language_model() | projector(f"model.mm_projector.{inside}")
    if config.get("normalize_projector"):
        tensors["model.mm_projector.norm.weight"] = torch.linspace(0.1, 0.4, HIDDEN).half()
    write_weights(folder, tensors, kind, shards, index)
    (folder / "config.json").write_text(json.dumps(original_config(**config)))
    text_tokenizer().save_pretrained(folder)
    return tensors


def write_weights(
    folder: Path, tensors: dict[str, Tensor], kind: str, shards: int, index: bool
) -> None:
    stem, end = ("pytorch_model", "bin") if kind == "bin" else ("model", "safetensors")
    names = list(tensors)
    places = {}
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{end}" if shards > 1 else f"{stem}.{end}"
        if kind == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    if shards > 1 and index:
        content = {"metadata": {}, "weight_map": places}
        (folder / f"{stem}.{end}.index.json").write_text(json.dumps(content))


def write_clip(folder: Path) -> Path:
    """A whole CLIP checkpoint, text model included, as on the hub."""
    tower = write_vision_tower(folder)
    vision = tensors_of(tower)
    model = hf.CLIPModel(hf.CLIPConfig(vision_config=vision_config().to_dict(), projection_dim=16))
    text = {name: t for name, t in model.state_dict().items() if name.startswith("text_model.")}
    renamed = {
        f"vision_model.{name.removeprefix('vision_model.')}": t for name, t in vision.items()
    }
    save_file(renamed | text, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "clip", "vision_config": vision_config().to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def original_logits(
    tensors: dict[str, Tensor], clip: Path, ids: list[int], image_at: int, pixels: Tensor, tail: Any
) -> Tensor:
    """What LLaVA's own code computes, in float32: features spliced into the text's embeddings."""
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    text = hf.LlamaForCausalLM(text_config()).eval()
    text.load_state_dict({k: v for k, v in weights.items() if "mm_projector" not in k})
    tower = hf.CLIPVisionModel.from_pretrained(clip).eval()
    x = tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
    linear = {k.split("mm_projector.")[1]: v for k, v in weights.items() if "mm_projector" in k}
    linear = {k.replace("projector.", "").replace("proj.", ""): v for k, v in linear.items()}
    x = torch.nn.functional.gelu(x @ linear["0.weight"].T + linear["0.bias"])
    x = tail(x @ linear["2.weight"].T + linear["2.bias"], linear.get("norm.weight"))
    words = text.get_input_embeddings()(torch.tensor(ids))
    embeds = torch.cat([words[:image_at], x, words[image_at:]])
    return text(inputs_embeds=embeds[None]).logits[0]
