"""Tiny language models, vision towers and LLaVAs in the layouts in which they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from hf.tiny_families import tokenizer
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split

hf: Any = transformers
HIDDEN, VOCABULARY, BLOCKS = 32, 40, 4


def text_tokenizer(pad: str | None = None) -> Any:
    """A word-level tokenizer of 40 words without `<image>` and, like Vicuna's, without padding."""
    special = ["<unk>", "<s>", "</s>", *([pad] if pad else [])]
    words = [*special, "\n", ":", "?", "USER", "ASSISTANT", "what", "where", "left", "right"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Sequence(
        [Split(Regex(" +"), "removed"), Split(Regex(r"\n|[^\s\w]"), "isolated")]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token=pad,
        padding_side="left",
    )


def text_config(**extra: Any) -> Any:
    return hf.LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
            "tie_word_embeddings": False,
            **extra,
        }
    )


def vision_config(kind: str = "clip", **extra: Any) -> Any:
    make = hf.CLIPVisionConfig if kind == "clip" else hf.SiglipVisionConfig
    return make(
        **{
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            **extra,
        }
    )


@torch.no_grad()
def randomise(model: Any, seed: int) -> Any:
    """Weights of order one, so that nothing in a comparison is hidden by zeros."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        centre = 1.0 if parameter.ndim == 1 else 0.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + centre)
    return model


def write_language_model(folder: Path, seed: int = 1, dtype: Any = None, **config: Any) -> Path:
    model = randomise(hf.LlamaForCausalLM(text_config(**config)), seed)
    model.to(dtype or torch.float32).save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return folder


def image_processor(kind: str = "clip", side: int = 32) -> Any:
    if kind == "clip":
        return hf.CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
    return hf.SiglipImageProcessorPil(size={"height": side, "width": side})


def write_vision_tower(folder: Path, kind: str = "clip", seed: int = 2, **config: Any) -> Path:
    make = hf.CLIPVisionModel if kind == "clip" else hf.SiglipVisionModel
    randomise(make(vision_config(kind, **config)), seed).save_pretrained(folder)
    image_processor(kind).save_pretrained(folder)
    return folder


def llava_processor(**options: Any) -> Any:
    return hf.LlavaProcessor(
        **{
            "image_processor": image_processor(),
            "tokenizer": tokenizer(image_token="<image>"),
            "patch_size": 4,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": "{% for m in messages %}USER: {% for c in m['content'] %}"
            "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}",
            **options,
        }
    )
