"""NormRescale and Amplify: what is done to the image tokens' embeddings."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from adaptvis.config.value import Number, Value, not_a_truth_value

__all__ = ["Amplify", "NormRescale"]

_LARGEST_AMPLIFICATION = 100.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NormRescale(Value):
    """Rescale each image token's embedding after the projector, at inference time.

    Per token ``h`` (after Beyond Semantics, section 5.2, without training):
    ``h <- h * target / |h|_2``, then ``h <- h * min(1, clip / |h|_2)``. ``"text"`` measures the
    language model's own embedding table: its mean L2 norm for ``target``, its maximum for
    ``clip``. ``target=None`` leaves norms alone and only clips outliers.
    """

    method: Literal["norm_rescale"] = "norm_rescale"
    target: Literal["text"] | float | None = "text"
    clip: Literal["text"] | float | None = None

    _numbers = field_validator("target", "clip", mode="before")(not_a_truth_value)

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


class Amplify(Value):
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
