"""Steering configurations: frozen pydantic models, discriminated by ``method``.

The semantics are those of *Why Is Spatial Reasoning Hard for VLMs?* (AdaptVis, ICML 2025),
*Beyond Semantics* (section 5.2) and *The Dual Mechanisms of Spatial Reasoning in VLMs* (section
5.4): see each class. Configurations are values: hashable, comparable, and the same after a round
trip through JSON or YAML.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from adaptvis.errors import ConfigError, unknown_name
from adaptvis.unique_keys import json_value, yaml_value

__all__ = [
    "TOKEN_METHODS",
    "AdaptVis",
    "Amplify",
    "AttentionSteering",
    "Compared",
    "NormRescale",
    "Region",
    "Rows",
    "ScalingVis",
    "SteeringConfig",
    "load_config",
    "parse_config",
    "parse_indices",
]

_LARGEST_COEFFICIENT = 1000.0
_LARGEST_INDEX = 4095
_LARGEST_AMPLIFICATION = 100.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PROBLEMS_NAMED = 3

Rows = Literal["last_prompt_token", "generated", "text_after_image"]
Compared = Literal["rounded_confidence", "rounded_logit"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise ConfigError(_sentence(type(self).__name__, error)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, without the fields left at ``None``."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self) -> str:
        """One line of JSON that :func:`parse_config` reads back."""
        return json.dumps(self.to_dict())

    def to_yaml(self) -> str:
        """YAML that :func:`load_config` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def parse_indices(value: Any) -> Any:
    """Accept ``"0-3,7"`` wherever a sequence of indices is expected."""
    if not isinstance(value, str):
        if _is_mask(value):
            raise ValueError(
                "expected the indices that are steered, got a mask of booleans; "
                "numpy.flatnonzero(mask) turns one into the other"
            )
        return value
    indices: list[int] = []
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{value[:40]!r} is not a list of indices such as '0-3,7'")
        if len(first) > 4 or len(last) > 4:
            raise ValueError(f"indices go up to {_LARGEST_INDEX}, got {part.strip()[:40]!r}")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise ValueError(f"range {part.strip()!r} runs backwards")
        indices.extend(range(int(first), stop + 1))
    return tuple(indices)


def _is_mask(value: Any) -> bool:
    """Booleans count as 0 and 1, so a mask would name the first two indices."""
    if hasattr(value, "dtype"):
        return str(value.dtype).endswith("bool")
    if not isinstance(value, list | tuple):
        return False
    return any(type(item).__name__ in ("bool", "bool_") for item in value)


def _indices_in_order(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not value:
        raise ValueError("an empty selection would steer nothing; leave it out to select all")
    if min(value) < 0:
        raise ValueError(f"indices count from 0, got {min(value)}")
    if max(value) > _LARGEST_INDEX:
        raise ValueError(f"indices go up to {_LARGEST_INDEX}, got {max(value)}")
    return tuple(sorted(set(value)))


def _not_a_truth_value(value: Any) -> Any:
    # pydantic would read True as 1, and with it a switch as a coefficient or a layer.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
        raise ValueError(f"a number is expected, got {bool(value)}")
    return value


Number = Annotated[float, BeforeValidator(_not_a_truth_value)]
Index = Annotated[int, BeforeValidator(_not_a_truth_value)]
Indices = Annotated[tuple[Index, ...], BeforeValidator(parse_indices)]


class Region(_Value):
    """A box in the pixels of one original image: only the image tokens under it are steered.

    ``box`` is (left, top, right, bottom) in pixels with the origin at the top left, right and
    bottom exclusive. ``image_size`` is (width, height) of the image as given to the processor;
    ``image`` counts the images of one prompt from 0.
    """

    box: tuple[Number, Number, Number, Number]
    image_size: tuple[Index, Index]
    image: Index = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _box_inside_image(self) -> Region:
        left, top, right, bottom = self.box
        width, height = self.image_size
        if not all(math.isfinite(edge) for edge in self.box):
            raise ValueError(f"box {self.box} has an edge that is not a finite number")
        if left >= right or top >= bottom:
            raise ValueError(f"box {self.box} is empty: left < right and top < bottom are needed")
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ValueError(
                f"box {self.box} reaches outside the image of {width} x {height} pixels"
            )
        return self


class AttentionSteering(_Value):
    """What ScalingVis and AdaptVis share: *where* the coefficient is applied.

    layers: decoder layers, counted from 0; default all. Also accepts ``"1-3,7"``.
    heads: query heads, the same in every steered layer; default all.
    rows: which query rows are steered. ``"last_prompt_token"`` as published, in the prefill only;
        ``"generated"`` that row and every decode step; ``"text_after_image"`` every prompt row
        after the first image that stands for text, not for an image, a video or a sound.
    images: which images of a prompt, counted from 0; default all.
    regions: pixel boxes; only the image tokens under them are steered. Excludes ``images``.
    """

    layers: Indices | None = None
    heads: Indices | None = None
    rows: Rows = "last_prompt_token"
    images: Indices | None = None
    regions: tuple[Region, ...] | None = None

    _ordered = field_validator("layers", "heads", "images")(_indices_in_order)

    @model_validator(mode="after")
    def _one_selection_of_image_tokens(self) -> AttentionSteering:
        if self.regions is not None and not self.regions:
            raise ValueError("regions is empty; leave it out to steer every image token")
        if self.regions is not None and self.images is not None:
            raise ValueError("give either images or regions (a region names its image), not both")
        return self


def _coefficient(value: float) -> float:
    # Larger ones could overflow a logit, and NaN in a cache outlives the request.
    if not 0 <= value <= _LARGEST_COEFFICIENT:
        raise ValueError(
            f"a coefficient must be a finite number from 0 to {_LARGEST_COEFFICIENT:g}, got {value}"
        )
    return value


class ScalingVis(AttentionSteering):
    """Multiply the raw attention logits from the steered rows to the image tokens by ``alpha``.

    ``s_ij <- alpha * s_ij`` before mask and softmax (AdaptVis paper, section 4). The coefficient
    acts on *raw* logits: alpha > 1 sharpens attention within the image, alpha < 1 flattens it, and
    where logits are negative alpha > 1 *lowers* the image's share. alpha is 1 / temperature.
    alpha = 0 flattens completely: every image token counts alike.
    """

    method: Literal["scalingvis"] = "scalingvis"
    alpha: Number

    _finite = field_validator("alpha")(_coefficient)


class AdaptVis(AttentionSteering):
    """Pick the coefficient per prompt from the model's own confidence (AdaptVis paper, section 5).

    ``confidence`` is the largest softmax probability of the first generated token with alpha = 1,
    from raw logits. ``alpha = alpha_low if confidence < threshold else alpha_high``. The defaults
    are the published ones for LLaVA-1.5 on Controlled_A. alpha_low > alpha_high is allowed: some
    models gain by sharpening when unsure.

    compared: what is held against the threshold instead, to follow the authors' code.
        ``"rounded_confidence"``: the confidence rounded to two decimals (0.396 is 0.4, so not below
        0.4), as on all their tasks but VSR. ``"rounded_logit"``: the largest raw logit, rounded
        alike, as on VSR: practically always above the threshold, which takes alpha_high. Decisions
        report the confidence all the same.
    """

    method: Literal["adaptvis"] = "adaptvis"
    alpha_low: Number = 0.5
    alpha_high: Number = 1.5
    threshold: Number = 0.4
    compared: Compared | None = None

    @field_validator("alpha_low", "alpha_high")
    @classmethod
    def _finite(cls, value: float) -> float:
        if _coefficient(value) == 0:
            raise ValueError("a coefficient must be above 0; only ScalingVis(alpha=0) is defined")
        return value

    @field_validator("threshold")
    @classmethod
    def _probability(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError(f"threshold is a probability between 0 and 1, got {value}")
        return value


class NormRescale(_Value):
    """Rescale each image token's embedding after the projector, at inference time.

    Per token ``h`` (after Beyond Semantics, section 5.2, without training):
    ``h <- h * target / |h|_2``, then ``h <- h * min(1, clip / |h|_2)``. ``"text"`` measures the
    language model's own embedding table: its mean L2 norm for ``target``, its maximum for
    ``clip``. ``target=None`` leaves norms alone and only clips outliers.
    """

    method: Literal["norm_rescale"] = "norm_rescale"
    target: Literal["text"] | float | None = "text"
    clip: Literal["text"] | float | None = None

    _numbers = field_validator("target", "clip", mode="before")(_not_a_truth_value)

    @field_validator("target", "clip")
    @classmethod
    def _positive(cls, value: str | float | None) -> str | float | None:
        if isinstance(value, float) and not (math.isfinite(value) and value > 0):
            raise ValueError(f"a norm must be a finite number above 0 or 'text', got {value}")
        return value

    @model_validator(mode="after")
    def _does_something(self) -> NormRescale:
        if self.target is None and self.clip is None:
            raise ValueError("target and clip are both None, so nothing would be rescaled")
        return self

    # None is a meaning here, not an absence.
    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Amplify(_Value):
    """Amplify directions of the image tokens' embeddings, at inference time.

    Per image token ``h`` at the language model's input, in the prefill only, with the direction
    ``w_k`` of each axis (Dual Mechanisms, section 5.4)::

        c_k = (h . w_k) / (|w_k|^2 + 1e-8)        h <- h + alpha * sum_k c_k w_k

    so that along one direction ``h`` is multiplied by 1 + alpha. Together with NormRescale, norms
    are rescaled first.

    directions: a safetensors file with one vector per axis, as ``adaptvis diagnose probes`` writes
        it. Held as its path and the SHA-256 of its content, so that a configuration stays a
        plain value and never means other directions. A relative path is read from the folder that
        the process runs in; give an absolute one where the configuration is used from others.
    alpha: above 0 and at most 100; the paper tries 1 to 15.
    axes: names of the directions to use; default all in the file.
    sha256: of the file; taken from the file where it is not given, and compared on use.
    """

    method: Literal["amplify"] = "amplify"
    directions: str
    alpha: Number
    axes: tuple[str, ...] | None = None
    sha256: str = ""

    @field_validator("directions", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("alpha")
    @classmethod
    def _in_range(cls, value: float) -> float:
        if not 0 < value <= _LARGEST_AMPLIFICATION:
            raise ValueError(
                f"alpha must be above 0 and at most {_LARGEST_AMPLIFICATION:g}, got {value}"
            )
        return value

    @field_validator("axes", mode="before")
    @classmethod
    def _one_axis(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("axes")
    @classmethod
    def _named_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or "" in value):
            raise ValueError("an empty selection would amplify nothing; leave it out to use all")
        return None if value is None else tuple(sorted(set(value)))

    @model_validator(mode="before")
    @classmethod
    def _with_content(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("sha256"):
            path = values.get("directions")
            if isinstance(path, str | Path):
                return {**values, "sha256": _sha256_of(Path(path))}
        return values

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, value: str) -> str:
        if not _SHA256.fullmatch(value):
            raise ValueError(f"a SHA-256 has 64 hexadecimal digits, got {value[:80]!r}")
        return value


def _sha256_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"directions: cannot read {str(path)[:200]} ({error.strerror}); adaptvis diagnose "
            "probes writes such a file"
        ) from None


SteeringConfig = ScalingVis | AdaptVis | NormRescale | Amplify

TOKEN_METHODS = (NormRescale, Amplify)
"""Methods that change the image tokens themselves, and with them every row that sees them."""

_METHODS: dict[str, type[SteeringConfig]] = {
    "scalingvis": ScalingVis,
    "adaptvis": AdaptVis,
    "norm_rescale": NormRescale,
    "amplify": Amplify,
}


def parse_config(value: Mapping[str, Any] | str | SteeringConfig) -> SteeringConfig:
    """Build a configuration from a mapping or a JSON string with a ``method`` key.

    Raises:
        ConfigError: no or unknown method, unknown field, or a value out of range.
    """
    if isinstance(value, SteeringConfig):
        return value
    if isinstance(value, str):
        try:
            value = json_value(value)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"The steering configuration is not valid JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ConfigError(
            "A steering configuration must be a mapping such as "
            f'{{"method": "scalingvis", "alpha": 1.2}}, got {type(value).__name__}'
        )
    fields = dict(value)
    method = fields.pop("method", None)
    if not isinstance(method, str):
        raise ConfigError(f"A steering configuration needs a 'method': {', '.join(_METHODS)}")
    if method not in _METHODS:
        raise ConfigError(unknown_name("steering method", method, _METHODS))
    return _METHODS[method](**fields)


def load_config(path: str | Path, name: str | None = None) -> SteeringConfig:
    """Read one configuration from a ``.json``, ``.yaml`` or ``.yml`` file.

    Args:
        name: of one preset, in a file that holds several as ``adaptvis tune`` writes them.

    Raises:
        ConfigError: the file cannot be read, parsed or validated, or holds several and no name was
            given.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        value = json_value(text) if path.suffix == ".json" else yaml_value(text)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid JSON or YAML: {error}") from None
    presets = value.get("presets") if isinstance(value, Mapping) else None
    if not isinstance(presets, Mapping):
        if name is not None:
            raise ConfigError(f"{path} holds one configuration, so it has no preset {name!r}")
        return parse_config(value)
    if name is None and len(presets) == 1:
        name = next(iter(presets))
    if name is None:
        raise ConfigError(
            f"{path} holds the presets {', '.join(map(str, presets))}; name one of them: "
            f"{path}:{next(iter(presets), 'NAME')}"
        )
    if name not in presets:
        raise ConfigError(unknown_name("preset", name, map(str, presets), f"(in {path})"))
    return parse_config(presets[name])


def _sentence(name: str, error: ValidationError) -> str:
    parts = []
    problems = error.errors(include_url=False)
    for item in problems[:_PROBLEMS_NAMED]:
        field = ".".join(str(step) for step in item["loc"] if not str(step).startswith("literal["))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "is not a parameter of this method"
        elif item["type"] == "missing":
            message = "is required"
        elif not item["msg"].startswith("Value error"):
            given = repr(item["input"])
            message = f"{message}, got {given if len(given) <= 80 else given[:80] + '...'}"
        parts.append(f"{field}: {message}" if field else message)
    if len(problems) > _PROBLEMS_NAMED:
        parts.append(f"and {len(problems) - _PROBLEMS_NAMED} more")
    return f"{name}: {'; '.join(parts)}"
