"""Generation settings of a checkpoint that would change what one greedy answer per prompt means."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

__all__ = ["greedy_generation"]

# How answers are searched, drafted and returned, and what is cached on the way. What belongs to the
# model stays: special tokens, penalties, suppressed and forced tokens, stop strings.
_RESET = (
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "constraints",
    "do_sample",
    "dola_layers",
    "force_words_ids",
    "is_assistant",
    "num_assistant_tokens",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "penalty_alpha",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "return_dict_in_generate",
    "speculation_type",
    "token_healing",
    "use_cache",
    "use_mtp",
)


@contextmanager
def greedy_generation(model: Any) -> Iterator[None]:
    """Run a block whose ``generate`` calls take none of these settings from the checkpoint.

    ``generate`` fills what a call leaves out from ``model.generation_config``, None included, so a
    checkpoint saved after training (``use_cache`` off) or for another use would answer otherwise.
    """
    own, default = model.generation_config, GenerationConfig()
    settings = copy.deepcopy(own)
    for name in _RESET:
        if hasattr(settings, name):
            setattr(settings, name, getattr(default, name, None))
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
