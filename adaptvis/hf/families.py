"""Which models can be steered, and where their parts are: one table, one line per family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from adaptvis.errors import UnknownFamilyError, unknown_name

__all__ = ["Family", "family_for", "known_families", "register_family"]

_OTHER_PLACEHOLDERS = tuple(
    f"{kind}_token_{suffix}" for kind in ("video", "audio") for suffix in ("id", "index")
)


@dataclass(frozen=True)
class Family:
    """Where the parts of a vision-language model are.

    model_type: ``config.model_type`` of the whole model.
    decoder: path from the model to its text decoder.
    features: path from the model to the module whose ``get_image_features`` returns the projected
        image tokens.
    image_token_id: attribute of the configuration that holds the placeholder's token id.
    adjacent_images: two images may stand side by side without a marker between them, so their
        lengths come from the vision encoder; elsewhere every run of placeholders is one image.
    tiled_images: an image's tokens come in several runs, separated by markers.
    cropped_images: crops of an image may follow it, each a run of its own (pan and scan).
    """

    model_type: str
    decoder: str = "model.language_model"
    features: str = "model"
    image_token_id: str = "image_token_id"
    adjacent_images: bool = False
    tiled_images: bool = False
    cropped_images: bool = False

    def decoder_of(self, model: nn.Module) -> Any:
        """The text decoder: takes ``inputs_embeds`` and returns ``last_hidden_state``."""
        return self._module(model, self.decoder)

    def features_of(self, model: nn.Module) -> Any:
        """The module with ``get_image_features``."""
        return self._module(model, self.features)

    def placeholder_of(self, config: Any) -> int:
        """Token id of the image placeholder."""
        token = getattr(config, self.image_token_id, None)
        if not isinstance(token, int):
            raise UnknownFamilyError(
                f"The configuration of this {self.model_type!r} model has no "
                f"{self.image_token_id}, so its image tokens cannot be found; declare the family "
                "with "
                "adaptvis.hf.register_family(Family(..., image_token_id=...))"
            )
        return token

    def other_placeholders_of(self, config: Any) -> tuple[int, ...]:
        """Token ids that stand for videos and sounds: neither image tokens nor text."""
        named = (getattr(config, name, None) for name in _OTHER_PLACEHOLDERS)
        image = self.placeholder_of(config)
        return tuple({token for token in named if isinstance(token, int)} - {image})

    def _module(self, model: nn.Module, path: str) -> nn.Module:
        try:
            return model.get_submodule(path)
        except AttributeError:
            raise UnknownFamilyError(
                f"A {type(model).__name__} has no module {path!r} where family "
                f"{self.model_type!r} expects it; pass the ...ForConditionalGeneration model, or "
                "declare its layout with adaptvis.hf.register_family(Family(...))"
            ) from None


_FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llava", adjacent_images=True),
        Family("adaptvis_llava", adjacent_images=True),
        Family("llava_next", adjacent_images=True),
        Family("llava_onevision", adjacent_images=True),
        Family("qwen2_vl"),
        Family("qwen2_5_vl"),
        Family("qwen3_vl"),
        Family("gemma3", cropped_images=True),
        Family("internvl"),
        Family("idefics3", decoder="model.text_model", tiled_images=True),
        Family("smolvlm", decoder="model.text_model", tiled_images=True),
        Family("paligemma", adjacent_images=True),
    )
}


def known_families() -> tuple[str, ...]:
    """The ``model_type`` of every family in the table."""
    return tuple(sorted(_FAMILIES))


def register_family(family: Family) -> None:
    """Declare a family that is not in the table, or replace an entry."""
    _FAMILIES[family.model_type] = family


def family_for(config: Any) -> Family:
    """The family of a model, from its configuration.

    Raises:
        UnknownFamilyError: lists the known families and shows how to declare another.
    """
    model_type = getattr(config, "model_type", None) or type(config).__name__
    if model_type not in _FAMILIES:
        raise UnknownFamilyError(
            unknown_name(
                "model family",
                model_type,
                _FAMILIES,
                "(a vision-language model that is not listed can be declared with "
                "adaptvis.hf.register_family(Family(model_type=..., decoder=..., features=...)))",
            )
        )
    return _FAMILIES[model_type]
