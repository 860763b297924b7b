"""A new LLaVA from a language model and a vision tower, with a fresh projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import LlavaProcessor

from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.modeling import AdaptVisLlavaForConditionalGeneration, name_architectures
from adaptvis.models.processors import IMAGE_TOKEN, add_placeholders, build_processor
from adaptvis.models.projector import AdaptVisProjector
from adaptvis.models.sources import LanguageModel, load_language_model, load_vision_tower
from adaptvis.models.text_norms import measure_text_norms

__all__ = ["assemble", "fresh_projector"]


def assemble(
    language_model: str | Path,
    vision_tower: str | Path,
    *,
    normalize: bool = False,
    vision_feature_layers: int | Sequence[int] | None = None,
    compression: int | None = None,
    target_mean: float | None = None,
    max_norm: float | None = None,
    seed: int = 0,
    dtype: str | torch.dtype = "auto",
) -> tuple[AdaptVisLlavaForConditionalGeneration, LlavaProcessor]:
    """Put a language model and a vision tower together; only the projector is new.

    Each source is a folder or hub id: a causal language model; CLIP or SigLIP; or a LLaVA, of
    which that part is taken. ``<image>`` and, where nothing pads, ``<pad>`` are added to the
    tokenizer; embedding rows for them are the mean of the others.

    Args:
        normalize: the Normalize variant (Beyond Semantics, section 5.2).
        vision_feature_layers: hidden states of the tower that go into the projector, as
            transformers counts them; the paper's Multilayer is [12, 16, 20, 24]. None takes a
            LLaVA's own, else the last but one.
        compression: number of image tokens after pooling, a square number; None keeps all.
        target_mean, max_norm: measured from the language model's table where not given.
        seed: of the projector's weights; the global random state is neither used nor changed.
        dtype: of all weights; "auto" takes the language model's.

    Raises:
        ConfigError: options contradict each other or the tower.
        CheckpointError: a source cannot be read.
        UnsupportedError: a source is of another kind.
    """
    text = load_language_model(language_model, dtype)
    dtype = text.decoder.dtype
    tower = load_vision_tower(vision_tower, dtype)
    if normalize and (target_mean is None or max_norm is None):
        mean, largest = _norms(text)
        target_mean = mean if target_mean is None else target_mean
        max_norm = largest if max_norm is None else max_norm
    add_placeholders(text.tokenizer)
    _grow(text, len(text.tokenizer))
    decoder, head = text.decoder, text.head
    chosen = tower.feature_layer if vision_feature_layers is None else vision_feature_layers
    siglip = tower.encoder.config.model_type.startswith("siglip")
    strategy = tower.select_strategy or ("full" if siglip else "default")
    config = AdaptVisLlavaConfig(
        vision_config=tower.encoder.config,
        text_config=decoder.config,
        image_token_id=text.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=chosen if isinstance(chosen, int) else list(chosen),
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=head.weight is decoder.get_input_embeddings().weight,
        pad_token_id=text.tokenizer.pad_token_id,
        bos_token_id=text.tokenizer.bos_token_id,
        eos_token_id=text.tokenizer.eos_token_id,
        normalize=normalize,
        target_mean=target_mean if normalize else None,
        max_norm=max_norm if normalize else None,
        compression=compression,
        dtype=dtype,
    )
    config.image_seq_length = config.image_tokens
    processor = build_processor(config, text.tokenizer, tower.image_processor, text.chat_template)
    with torch.device("meta"):
        model = AdaptVisLlavaForConditionalGeneration(config)
    model.model.language_model, model.model.vision_tower, model.lm_head = (
        decoder,
        tower.encoder,
        head,
    )
    model.model.multi_modal_projector = fresh_projector(config, seed).to(dtype)
    model.generation_config = text.generation_config
    model.generation_config.pad_token_id = text.tokenizer.pad_token_id
    name_architectures(model.config)
    for own in (model.config, model.config.text_config, model.config.vision_config):
        own._name_or_path = ""  # where a part was loaded from belongs to no checkpoint
    return model.eval(), processor


def fresh_projector(config: AdaptVisLlavaConfig, seed: int) -> AdaptVisProjector:
    """A float32 projector with torch's default initialisation, as LLaVA was trained from."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        return AdaptVisProjector(config)


def _norms(text: LanguageModel) -> tuple[float, float]:
    vocabulary = text.tokenizer.get_vocab()
    placeholders = {vocabulary.get(IMAGE_TOKEN), text.tokenizer.pad_token_id} - {None}
    return measure_text_norms(
        text.decoder.get_input_embeddings(), ignored=placeholders, rows=len(text.tokenizer)
    )


def _grow(text: LanguageModel, vocabulary: int) -> None:
    """A row for each token in the table and the head; new rows are the mean of the others."""
    table = text.decoder.get_input_embeddings()
    if vocabulary <= table.weight.shape[0]:
        return
    tied = text.head.weight is table.weight
    table.weight, table.num_embeddings = _with_means(table.weight, vocabulary), vocabulary
    text.head.weight = table.weight if tied else _with_means(text.head.weight, vocabulary)
    text.head.out_features = text.decoder.config.vocab_size = vocabulary


@torch.no_grad()
def _with_means(weight: nn.Parameter, rows: int) -> nn.Parameter:
    mean = weight.float().mean(dim=0).to(weight.dtype)
    return nn.Parameter(torch.cat([weight, mean.expand(rows - len(weight), -1)]))
