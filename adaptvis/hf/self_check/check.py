"""One family checked on the installed transformers: a tiny model, steered against the definition.

Patching does this by itself on a version that was not tested, once per family and process.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from adaptvis.config import AdaptVis, AttentionSteering, ScalingVis
from adaptvis.errors import AdaptVisWarning, UnsupportedError
from adaptvis.hf.attention import attention_configs
from adaptvis.hf.families import family_for
from adaptvis.hf.library import TESTED, VERSION, decoding_fault, is_tested
from adaptvis.hf.self_check.definition import Definition, defined
from adaptvis.hf.self_check.tiny_models import tiny_config, tiny_families, tiny_model
from adaptvis.hf.self_check.tiny_prompts import TOKENS, tiny_prompts
from adaptvis.steering.spans import steered_rows

__all__ = ["check_family", "limits_of", "require_working"]

Steer = Callable[..., AbstractContextManager[Any]]

_STEPS = 2
_TOLERANCE = 1e-3
# What a check must move the logits by to have shown anything.
_SEEN = 20 * _TOLERANCE

_LOCK = threading.RLock()
_checking: ContextVar[bool] = ContextVar("adaptvis_checking", default=False)
_found: dict[str, str] = {}


def require_working(model_type: str, steer: Steer) -> None:
    """Check a family where the installed transformers was not tested; silent where it was.

    The first call in a process warns with the versions that were.

    Raises:
        UnsupportedError: steered answers are not what they should be, and how they differ.
    """
    if is_tested(VERSION) or _checking.get():
        return
    with _LOCK:
        if not _found:
            warnings.warn(
                f"adaptvis was tested with transformers {', '.join(TESTED)} and found "
                f"{VERSION}; each family is checked on a tiny model before it is "
                "steered",
                AdaptVisWarning,
                stacklevel=4,
            )
        if model_type not in _found:
            # A family that was declared by the user is steered through the same seams.
            checked = model_type if model_type in tiny_families() else "llava"
            _found[model_type] = _found.get(checked) or check_family(checked, steer)
    if _found[model_type]:
        raise UnsupportedError(
            f"adaptvis cannot steer {model_type} with transformers {VERSION}: "
            f"{_found[model_type]}; install one of {', '.join(TESTED)}"
        )


def check_family(model_type: str, steer: Steer) -> str:
    """What is wrong with steering this family here, in half a sentence; empty if nothing.

    Args:
        steer: :func:`adaptvis.steer`, which imports this module.
    """
    token = _checking.set(True)
    try:
        with _plain_torch(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = tiny_model(tiny_config(model_type, TOKENS))
            return _differences(model, tiny_prompts(model), steer)
    except Exception as problem:
        # Foreign code in a version that nobody has tried fails in its own ways.
        text = " ".join(str(problem).split())[:300]
        return f"a tiny model of it fails with {type(problem).__name__}: {text}"
    finally:
        _checking.reset(token)


def limits_of(model_type: str) -> str:
    """What cannot be asked of this family here, steered or not; empty where nothing is."""
    with _plain_torch(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decoding_fault(tiny_model(tiny_config(model_type, TOKENS)))


@contextmanager
def _plain_torch() -> Iterator[None]:
    """float32 on the CPU, whatever the caller's defaults are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)


def _differences(model: Any, inputs: dict[str, Tensor], steer: Steer) -> str:
    untouched = _logits(model, inputs)
    plain = _defined_logits(model, inputs, None)
    if _apart(untouched, plain) > _TOLERANCE:
        return "its own answers with a key-value cache differ from those without one"
    with steer(model, None):
        if not torch.equal(_logits(model, inputs), untouched):
            return "a patch that is off changes its answers"

    confidence = plain[0].softmax(dim=-1).amax(dim=-1)
    middle = float(confidence.mean())
    chosen = torch.where(confidence < middle, 0.5, 2.0)
    for config, alpha in (
        (ScalingVis(alpha=2.0), torch.full_like(chosen, 2.0)),
        (ScalingVis(alpha=2.0, rows="text_after_image"), torch.full_like(chosen, 2.0)),
        (AdaptVis(alpha_low=0.5, alpha_high=2.0, threshold=middle), chosen),
    ):
        expected = _defined_logits(model, inputs, _definition(model, inputs, config, alpha))
        with steer(model, config) as handle:
            found = _logits(model, inputs)
            decisions = handle.last
        name = f"{config.method} with rows={config.rows!r}"
        if [decision.alpha for decision in decisions] != alpha.tolist():
            return f"{name} takes other coefficients than it should"
        if _apart(found, expected) > _TOLERANCE:
            return f"{name} gives other answers than its definition"
        if _apart(expected, plain) < _SEEN:
            return f"{name} changes nothing, so nothing was checked"
    if not torch.equal(_logits(model, inputs), untouched):
        return "its answers are not as before once a patch has been removed"
    return ""


def _definition(
    model: Any, inputs: dict[str, Tensor], config: AttentionSteering, alpha: Tensor
) -> Definition:
    ids = inputs["input_ids"]
    columns = ids == family_for(model.config).placeholder_of(model.config)
    padding = inputs["attention_mask"] == 0
    rows = steered_rows(config.rows, columns, ids.shape[1], padding)
    return Definition(rows, columns, alpha)


def _logits(model: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    """Raw logits of the first greedy tokens, [steps, B, V]."""
    steps = 1 if decoding_fault(model) else _STEPS
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    return torch.stack(output.logits)


def _defined_logits(model: Any, inputs: dict[str, Tensor], definition: Definition | None) -> Tensor:
    decoder = family_for(model.config).decoder_of(model)
    with defined(attention_configs(decoder), definition):
        return _logits(model, inputs, use_cache=False)


def _apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
