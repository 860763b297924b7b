"""Saving the tiny LLaVA as a Hugging Face directory that transformers and vLLM both load.

Weights are bfloat16 safetensors under the key names of the llava-hf checkpoints on the hub
(`vision_tower.vision_model.*`, `language_model.model.*`), which vLLM expects; transformers 5
writes other names itself and reads these.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from adaptvis.data.scenes import CANVAS
from adaptvis.errors import CheckpointError
from adaptvis.training.tiny.model import PATCH
from adaptvis.training.tiny.tokenizer import BOS, EOS, PAD, build_tokenizer

__all__ = ["CHAT_TEMPLATE", "build_processor", "classic_key", "export", "load_float32"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '</s>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_RENAMED = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def build_processor() -> LlavaProcessor:
    """Image processor, tokenizer and chat template: `USER: <image>\\n{question} ASSISTANT:`."""
    size = {"height": CANVAS, "width": CANVAS}
    images = CLIPImageProcessorPil(
        size={"shortest_edge": CANVAS},
        crop_size=size,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,  # the class token, which "default" then drops
    )


def classic_key(name: str) -> str:
    """The hub's name of a parameter of transformers 5's LLaVA."""
    for new, old in _RENAMED:
        if name.startswith(new):
            return old + name.removeprefix(new)
    raise CheckpointError(f"The parameter {name!r} has no name in the classic layout.")


def export(model: LlavaForConditionalGeneration, folder: str | Path) -> Path:
    """Writes config, weights, generation config and processor files to `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        classic_key(name): parameter.detach().to(torch.bfloat16).contiguous()
        for name, parameter in model.named_parameters()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config |= {"architectures": ["LlavaForConditionalGeneration"], "dtype": "bfloat16"}
    config["text_config"]["architectures"] = ["LlamaForCausalLM"]
    # Traces of the folder and precision that a base was loaded from.
    config["_name_or_path"] = ""
    config["text_config"]["dtype"] = config["vision_config"]["dtype"] = None
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=4
    ).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


def load_float32(folder: str | Path) -> LlavaForConditionalGeneration:
    """An exported model with float32 weights, for further training.

    Raises:
        CheckpointError: the folder holds no exported model.
    """
    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder} holds no model.safetensors: train the base recipe first.")
    return LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
