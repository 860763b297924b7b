"""Pan and scan of Gemma-3: which runs of image tokens are crops of which picture.

The processor writes a picture that it cuts as ``Here is the original image <run> and here are some
crops to help you see better <run> <run>``, one run for each crop, and one that it leaves whole as
one run. Nothing else tells the two apart: the model sees crops and pictures alike.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adaptvis.errors import PromptError, UnsupportedError

__all__ = ["runs_per_picture"]

_BEFORE = "Here is the original image"
_BETWEEN = "and here are some crops to help you see better"


def runs_per_picture(ids: Tensor, image_tokens: Tensor, processor: Any) -> list[int]:
    """Number of runs of image tokens of each picture of one prompt, in order.

    Args:
        ids: int64 [N]. image_tokens: bool [N].
        processor: only needed where there is room for a sentence between two runs.

    Raises:
        UnsupportedError: a processor is needed and was not given, or is of another kind.
        PromptError: behind the crops of a picture there may be further crops or other pictures.
    """
    texts = _texts_before_runs(ids.tolist(), image_tokens)
    # No vocabulary writes the sentence in fewer tokens than it has words.
    if all(len(text) < len(_BETWEEN.split()) for text in texts[1:]):
        return [1] * len(texts)
    if processor is None:
        raise UnsupportedError(
            "Only the processor tells pictures from the crops of pan and scan; pass it: "
            "adaptvis.patch(model, config, processor=processor)"
        )
    separator = _separator(processor)
    pictures: list[int] = []
    run = 0
    while run < len(texts):
        crops = 0
        if run + 1 < len(texts) and _is_cut(processor, texts[run], texts[run + 1]):
            crops = 1
            while run + crops + 1 < len(texts) and texts[run + crops + 1] == separator:
                crops += 1
            _check_crops(crops)
        pictures.append(1 + crops)
        run += 1 + crops
    return pictures


def _texts_before_runs(ids: list[int], image_tokens: Tensor) -> list[list[int]]:
    """The tokens before each run, back to the run before."""
    texts: list[list[int]] = []
    text: list[int] = []
    inside = False
    for token, image in zip(ids, image_tokens.tolist(), strict=True):
        if image and not inside:
            texts.append(text)
            text = []
        if not image:
            text.append(token)
        inside = image
    return texts


def _is_cut(processor: Any, before: list[int], between: list[int]) -> bool:
    def says(tokens: list[int], sentence: str) -> bool:
        return sentence in " ".join(processor.tokenizer.decode(tokens).split())

    return says(between, _BETWEEN) and says(before, _BEFORE)


def _separator(processor: Any) -> list[int]:
    """The tokens between two crops."""
    picture = getattr(processor, "full_image_sequence", None)
    if picture is None:
        raise UnsupportedError(
            f"A {type(processor).__name__} does not say how it writes a picture, so its crops "
            "cannot be told from other pictures; pass the model's own processor"
        )
    tokenizer = processor.tokenizer
    ids = tokenizer(f"{picture} {picture}", add_special_tokens=False)["input_ids"]
    first, last = (index for index, token in enumerate(ids) if token == tokenizer.boi_token_id)
    stop = first + 1 + processor.image_seq_length
    return list(ids[stop : last + 1])


def _check_crops(runs: int) -> None:
    """A picture has at least two crops; one more run, a space before it, may be either."""
    if runs > 2:
        raise PromptError(
            f"Pan and scan cut a picture, and the {runs} runs of image tokens behind it may be its "
            "crops or pictures of their own; steer all images, or call the processor with "
            "pan_and_scan_max_num_crops=2 and write something between the pictures"
        )
