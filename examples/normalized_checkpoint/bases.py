"""A base language model and a vision tower, as folders, out of a model that comes with adaptvis.

python examples/normalized_checkpoint/bases.py tutorial

Stands in for lmsys/vicuna-7b-v1.5 and openai/clip-vit-large-patch14-336, which need no such step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from adaptvis.cli.models import resolve_model

MODEL = "tiny-2ds-seed0"


def main(folder: Path) -> None:
    source = resolve_model(MODEL).source
    llava: Any = AutoModelForImageTextToText.from_pretrained(source)
    processor = AutoProcessor.from_pretrained(source)
    write_language_model(llava, processor.tokenizer, folder / "language-model")
    write_vision_tower(llava, processor.image_processor, folder / "vision-tower")
    print(f"Wrote {folder / 'language-model'} and {folder / 'vision-tower'}")


def write_language_model(llava: Any, tokenizer: Any, folder: Path) -> None:
    """Decoder, head and tokenizer without the token `<image>`, which a language model lacks."""
    config = llava.config.text_config
    image = llava.config.image_token_id
    kept = [token for token in range(config.vocab_size) if token != image]
    config.vocab_size = len(kept)
    model = LlamaForCausalLM(config).to(llava.dtype)
    model.model.load_state_dict(_with_rows(llava.model.language_model.state_dict(), kept))
    model.lm_head.load_state_dict(_with_rows(llava.lm_head.state_dict(), kept))
    model.generation_config = llava.generation_config
    model.save_pretrained(folder)
    _without(tokenizer, image).save_pretrained(folder)


def write_vision_tower(llava: Any, image_processor: Any, folder: Path) -> None:
    tower = CLIPVisionModel(llava.config.vision_config).to(llava.dtype)
    tower.load_state_dict(llava.model.vision_tower.state_dict())
    tower.save_pretrained(folder)
    image_processor.save_pretrained(folder)


def _with_rows(tensors: dict[str, torch.Tensor], rows: list[int]) -> dict[str, torch.Tensor]:
    """Of the embedding table and the head only these rows; everything else as it is."""
    return {
        name: tensor[rows] if name in ("embed_tokens.weight", "weight") else tensor
        for name, tensor in tensors.items()
    }


def _without(tokenizer: Any, token: int) -> PreTrainedTokenizerFast:
    """The tokenizer without a token; those behind it move up."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    words = described["model"]["vocab"]
    described["model"]["vocab"] = {
        word: place - (place > token) for word, place in words.items() if place != token
    }
    described["added_tokens"] = [a for a in described["added_tokens"] if a["id"] != token]
    special = ("bos_token", "eos_token", "unk_token", "pad_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        **{name: getattr(tokenizer, name) for name in special},
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
