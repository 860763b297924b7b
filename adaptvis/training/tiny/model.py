"""The tiny LLaVA: a CLIP tower, an MLP projector and a Llama, 1.46 million parameters.

A plain `LlavaForConditionalGeneration`, so everything that works on LLaVA-1.5 works on it.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from adaptvis.data.scenes import CANVAS
from adaptvis.training.tiny.tokenizer import BOS, EOS, IMAGE, PAD, VOCABULARY

__all__ = ["GRID", "PATCH", "build_config", "build_model", "sincos_positions"]

PATCH = 8
GRID = CANVAS // PATCH
"""Patches along one side; GRID * GRID = 49 image tokens."""
WIDTH = 128
LINEAR_STD = 0.06
EMBEDDING_STD = 0.5


def build_config() -> LlavaConfig:
    """Configuration of the tiny LLaVA."""
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=CANVAS,
            patch_size=PATCH,
            projection_dim=WIDTH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=WIDTH,
            intermediate_size=3 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
            tie_word_embeddings=False,
        ),
        image_token_index=IMAGE,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised float32 model; the same seed gives the same weights."""
    model = LlavaForConditionalGeneration._from_config(build_config(), attn_implementation="eager")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        _initialise(name, parameter, generator)
    positions = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        positions[1:] = 0.5 * sincos_positions(GRID, WIDTH)
    return model.float()


@torch.no_grad()
def _initialise(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    if name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim == 1 and "class_embedding" not in name:
        parameter.fill_(1.0)  # norm weights
    else:
        is_embedding = "embed_tokens" in name or "position_embedding" in name
        std = EMBEDDING_STD if is_embedding else LINEAR_STD
        parameter.normal_(0.0, std, generator=generator)


def sincos_positions(grid: int, width: int) -> Tensor:
    """Two-dimensional sine-cosine position code [grid * grid, width], values in [-1, 1]."""
    quarter = width // 4
    frequency = 1.0 / (10.0 ** (torch.arange(quarter) / quarter))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (row, column)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)
