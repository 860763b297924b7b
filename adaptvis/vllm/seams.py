"""What of vLLM the plugin wraps, calls or reads, and how a vLLM's source describes it.

Read from files, because runners are large and front ends never import them. What another plugin
has put in a function's place is found where the module is imported already.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["ABSENT", "REPLACED", "SEAMS", "Seam", "describe"]

ABSENT = "is missing"
REPLACED = "; from "


@dataclass(frozen=True)
class Seam:
    """One function, or names of one class.

    places: ``module:Class.function``, the newest first; it moved between versions.
    body: whether more than its arguments matters: the plugin counts on what it does.
    names: attributes of a class; then places name the class.
    """

    name: str
    places: tuple[str, ...]
    body: bool = False
    names: tuple[str, ...] = ()


def _function(place: str, *older: str, body: bool = False, name: str = "") -> Seam:
    return Seam(name or place.partition(":")[2], (place, *older), body)


def _names(place: str, *names: str, older: str = "", name: str = "") -> Seam:
    places = (place, older) if older else (place,)
    return Seam(f"attributes of {name or place.partition(':')[2]}", places, names=names)


_ASYNC = "vllm.v1.engine.async_llm:AsyncLLM"
_INPUTS = "vllm.v1.engine.input_processor:InputProcessor"
_RENDERER = "vllm.renderers.online_renderer:OnlineRenderer"
_CLIENTS = "vllm.v1.engine.core_client"
_LRU = "vllm.multimodal.cache.lru:LruKeyReplicatedSenderCache"
_OLD_LRU = "vllm.multimodal.cache:MultiModalProcessorSenderCache"
_V1 = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_V2 = "vllm.v1.worker.gpu.model_runner:GPUModelRunner"
_TABLES = "vllm.v1.worker.gpu.block_table:BlockTables"
_PROTOCOL = "vllm.entrypoints.openai"
_BEAMS = "vllm.entrypoints.generate.beam_search"
_BACKENDS = "vllm.v1.attention.backends"
_LLAVA = "vllm.model_executor.models.llava"

SEAMS: tuple[Seam, ...] = (
    # Front ends.
    _function(f"{_INPUTS}.__init__"),
    _function(f"{_INPUTS}.process_inputs"),
    _function(f"{_ASYNC}.__init__"),
    _function(f"{_ASYNC}.generate"),
    _function("vllm.v1.engine.llm_engine:LLMEngine.__init__"),
    _function(
        "vllm.entrypoints.common.offline:OfflineInferenceMixin._render_and_add_requests",
        "vllm.entrypoints.offline_utils:OfflineInferenceMixin._render_and_add_requests",
    ),
    _function(f"{_RENDERER}.preprocess_chat"),
    _function(f"{_RENDERER}.preprocess_cmpl"),
    _function(
        "vllm.entrypoints.serve.middleware.register:init_entrypoints_middleware",
        "vllm.entrypoints.openai.api_server:build_app",
        body=True,
    ),
    _function(
        "vllm.entrypoints.serve.middleware.authenticate:AuthenticationMiddleware.verify_token",
        "vllm.entrypoints.serve.utils.server_utils:AuthenticationMiddleware.verify_token",
        body=True,
    ),
    _function(
        "vllm.entrypoints.serve.exception_handling.error_response:create_error_response",
        "vllm.entrypoints.serve.utils.error_response:create_error_response",
    ),
    _function(f"{_PROTOCOL}.chat_completion.protocol:ChatCompletionRequest.to_beam_search_params"),
    _function(f"{_PROTOCOL}.completion.protocol:CompletionRequest.to_beam_search_params"),
    _function(f"{_BEAMS}.online:BeamSearchOnlineMixin.beam_search"),
    _function(f"{_BEAMS}.offline:BeamSearchOfflineMixin.beam_search"),
    _function(f"{_LRU}.is_cached_item", f"{_OLD_LRU}.is_cached_item", body=True),
    _function(f"{_LRU}.get_and_update_item", f"{_OLD_LRU}.get_and_update_item", body=True),
    _function(f"{_CLIENTS}:InprocClient.add_request"),
    _function(f"{_CLIENTS}:SyncMPClient.add_request"),
    _function(f"{_CLIENTS}:AsyncMPClient.add_request_async"),
    _function(f"{_CLIENTS}:DPAsyncMPClient.add_request_async"),
    _function("vllm.multimodal.inputs:PlaceholderRange.extract_embeds_range"),
    _names(
        "vllm.multimodal.inputs:MultiModalFeatureSpec",
        *("data", "identifier", "mm_hash", "mm_position", "modality"),
    ),
    _names(
        "vllm.v1.engine:EngineCoreRequest",
        *("mm_features", "pooling_params", "prompt_token_ids", "request_id", "sampling_params"),
    ),
    _function("vllm.v1.engine.core:EngineCore.preprocess_add_request"),
    # The scheduler.
    _function("vllm.v1.core.kv_cache_utils:generate_block_hash_extra_keys", body=True),
    _names(
        "vllm.v1.core.sched.output:SchedulerOutput",
        *("finished_req_ids", "num_scheduled_tokens", "scheduled_cached_reqs"),
        "scheduled_new_reqs",
    ),
    _names("vllm.v1.core.sched.output:CachedRequestData", "resumed_req_ids"),
    _names(
        "vllm.v1.core.sched.output:NewRequestData",
        *("mm_features", "prompt_len", "prompt_token_ids", "req_id", "sampling_params"),
    ),
    # Workers.
    _function("vllm.v1.worker.worker_base:WorkerWrapperBase.init_device"),
    _function("vllm.v1.worker.gpu_worker:Worker.load_model"),
    _function("vllm.forward_context:set_forward_context"),
    _function("vllm.model_executor.models.interfaces:requires_raw_input_tokens"),
    _function("vllm.model_executor.models.utils:extract_layer_index"),
    _function(f"{_V1}.initialize_kv_cache", name="V1 runner's initialize_kv_cache"),
    _function(f"{_V1}.execute_model", body=True, name="V1 runner's execute_model"),
    _function(f"{_V1}._model_forward", body=True, name="V1 runner's _model_forward"),
    _function(f"{_V1}._init_model_kwargs", name="V1 runner's _init_model_kwargs"),
    _names(
        _V1,
        *("execute_model_state", "input_batch", "input_ids", "inputs_embeds", "kv_cache_config"),
        *("max_num_tokens", "mrope_positions", "requests", "uses_mrope"),
        name="the V1 runner",
    ),
    _names(
        "vllm.v1.worker.gpu_model_runner:ExecuteModelState",
        *("hidden_states", "logits", "sample_hidden_states"),
        name="the V1 runner's state",
    ),
    _names(
        "vllm.v1.worker.gpu_input_batch:InputBatch",
        *("block_table", "num_computed_tokens_cpu", "req_ids"),
        name="the V1 runner's batch",
    ),
    _names(
        "vllm.v1.worker.gpu_input_batch:CachedRequestState", "mrope_positions", "prompt_token_ids"
    ),
    _names("vllm.v1.worker.block_table:BlockTable", "block_size", "block_table"),
    _names("vllm.v1.worker.block_table:MultiGroupBlockTable", "block_tables"),
    _function(f"{_V2}.initialize_kv_cache", name="V2 runner's initialize_kv_cache"),
    _function(f"{_V2}.execute_model", body=True, name="V2 runner's execute_model"),
    _names(
        _V2,
        *("attn_groups", "block_tables", "execute_model_state", "input_buffers"),
        *("kv_cache_config", "max_num_tokens", "model_state", "req_states"),
        name="the V2 runner",
    ),
    _names(
        "vllm.v1.worker.gpu.model_runner:ExecuteModelState",
        *("hidden_states", "input_batch"),
        name="the V2 runner's state",
    ),
    _names(
        "vllm.v1.worker.gpu.input_batch:InputBatch",
        *("idx_mapping_np", "num_computed_tokens_np", "num_scheduled_tokens"),
        *("query_start_loc_np", "req_ids"),
        name="the V2 runner's batch",
    ),
    _function(f"{_TABLES}.append_block_ids", body=True),
    _names(_TABLES, "block_sizes", "block_tables", "blocks_per_kv_block", "num_blocks"),
    _names(
        "vllm.v1.worker.utils:AttentionGroup",
        *("kernel_block_offsets", "kernel_block_size", "kernel_block_stride"),
    ),
    _function("vllm.v1.worker.gpu.mm.rope:RopeState.read_prefill_positions", body=True),
    # Attention.
    *(
        _function(f"{_BACKENDS}.{module}:{implementation}.{name}")
        for module, implementation in (
            ("cpu_attn", "CPUAttentionBackendImpl"),
            ("flash_attn", "FlashAttentionImpl"),
            ("triton_attn", "TritonAttentionImpl"),
            ("flashinfer", "FlashInferImpl"),
        )
        for name in ("forward", "do_kv_cache_update")
    ),
    # Our LLaVA is vLLM's own with other features and another projector.
    _function(f"{_LLAVA}:LlavaMultiModalProjector.__init__", body=True),
    _function(f"{_LLAVA}:LlavaForConditionalGeneration._image_pixels_to_features", body=True),
    _names(f"{_LLAVA}:LlavaForConditionalGeneration", "hf_to_vllm_mapper"),
    _function("vllm.model_executor.models.utils:get_layer_index"),
)


def describe(seam: Seam, root: Path) -> str:
    """One line that is equal where the plugin can count on the same.

    Args:
        root: the folder with vLLM's modules.
    """
    for place in seam.places:
        module, _, path = place.partition(":")
        lines = _source(root, module)
        block = None if lines is None else _block_of(lines, path)
        if block is None:
            continue
        where = place if place != seam.places[0] else ""
        if seam.names:
            present = [name for name in seam.names if _assigns(block, name)]
            return " ".join([where, ", ".join(present)]).strip()
        replaced = _replaced(module, path)
        arguments, body = _function_of(block)
        parts = [where, f"({replaced or arguments})"]
        if seam.body:
            parts.append("replaced" if replaced else body)
        return " ".join(parts).strip()
    return ABSENT


@cache
def _source(root: Path, module: str) -> list[str] | None:
    path = root.joinpath(*module.split(".")[1:])
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_text(encoding="utf-8").splitlines()
    return None


def _block_of(lines: list[str], path: str) -> list[str] | None:
    """The lines of a class or function. Parsing whole modules would take seconds."""
    block: list[str] | None = lines
    indentation = 0
    for name in path.split("."):
        if block is None:
            return None
        block = _definition(block, name, indentation)
        indentation += 4
    return block


def _definition(lines: list[str], name: str, indentation: int) -> list[str] | None:
    start = re.compile(rf" {{{indentation}}}(class|def|async def) {re.escape(name)}\b")
    found = [index for index, line in enumerate(lines) if start.match(line)]
    if not found:
        return None
    # The last one counts: those before it are overloads.
    first = found[-1]
    for stop in range(first + 1, len(lines)):
        line = lines[stop]
        inside = not line.strip() or line[: indentation + 1].isspace()
        if not inside and line.lstrip()[0] not in ")]#":
            return lines[first:stop]
    return lines[first:]


def _assigns(block: list[str], name: str) -> bool:
    """Whether a class has a field or method of that name, or gives it to itself."""
    of_class = rf" {{4}}({name}\s*[:=]|def {name}\()"
    of_instance = rf"\s+(.*, )?self\.{name}(,|\s*=[^=]|\s*:)"
    assigned = re.compile(f"{of_class}|{of_instance}")
    return any(assigned.match(line) for line in block)


def _function_of(block: list[str]) -> tuple[str, str]:
    """Arguments of a function, defaults as ``=``, and a hash of its code without comments."""
    tree = ast.parse(textwrap.dedent("\n".join(block)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        # A documentation string; nothing else is a constant by itself.
        start = first.end_lineno or 0
    else:
        start = first.lineno - 1
    code = [
        stripped
        for line in block[start:]
        if (stripped := line.rstrip()) and not stripped.lstrip().startswith("#")
    ]
    return _arguments(function.args), hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def _arguments(given: ast.arguments) -> str:
    plain = [one.arg for one in (*given.posonlyargs, *given.args)]
    required = len(plain) - len(given.defaults)
    named = [name if index < required else f"{name}=" for index, name in enumerate(plain)]
    if given.vararg is not None:
        named.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        named.append("*")
    named += [
        one.arg if default is None else f"{one.arg}="
        for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    if given.kwarg is not None:
        named.append(f"**{given.kwarg.arg}")
    return ", ".join(named)


def _replaced(module: str, path: str) -> str:
    """The arguments of what stands in a function's place in this process; empty if it is itself."""
    found: Any = sys.modules.get(module)
    if found is None:
        return ""
    for name in path.split("."):
        found = getattr(found, name, None)
    # Wrappers that say what they wrap pass its arguments on: ours, and other plugins'.
    found = inspect.unwrap(found) if callable(found) else found
    own = getattr(found, "__module__", None) == module
    if own and getattr(found, "__qualname__", None) == path:
        return ""
    if not callable(found):
        return f"not callable{REPLACED}something that cannot be called"
    try:
        text = ", ".join(map(str, inspect.signature(found).parameters))
    except (TypeError, ValueError):
        text = "unknown"
    return f"{text}{REPLACED}{getattr(found, '__module__', None)}"
