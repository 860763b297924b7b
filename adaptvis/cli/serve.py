"""`adaptvis serve`: vLLM's OpenAI server with steering defaults."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer

from adaptvis.cli.console import note
from adaptvis.cli.models import Model, model_config, resolve_model
from adaptvis.cli.server_arguments import plugin_names, server_arguments
from adaptvis.config import TOKEN_METHODS, NormRescale, SteeringConfig, parse_config
from adaptvis.errors import CheckpointError, ConfigError

__all__ = ["VLLM_OPTIONS", "serve"]

# For typer: options that are not ours belong to vLLM.
VLLM_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}

_STEERING = "Steering of requests that say nothing themselves"
_MEMORY_OPTIONS = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
_SERVER = "Server"


def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Model folder, hub id (org/name) or embedded model.")
    ],
    steering: Annotated[
        str | None,
        typer.Option(
            help="A configuration as JSON, the path of a .json or .yaml file (with several "
            "presets: FILE:NAME), or the name of a preset (the model's own come first; published "
            "ones that end in -reference compare as the authors' code does).",
            rich_help_panel=_STEERING,
        ),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="ScalingVis coefficient.", rich_help_panel=_STEERING)
    ] = None,
    alpha_low: Annotated[
        float | None,
        typer.Option(help="AdaptVis: below the threshold.", rich_help_panel=_STEERING),
    ] = None,
    alpha_high: Annotated[
        float | None,
        typer.Option(help="AdaptVis: from the threshold on.", rich_help_panel=_STEERING),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="AdaptVis: of the model's confidence.", rich_help_panel=_STEERING),
    ] = None,
    rows: Annotated[
        str | None,
        typer.Option(
            help="last_prompt_token, generated or text_after_image.", rich_help_panel=_STEERING
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Decoder layers such as 1-3,7; default all.", rich_help_panel=_STEERING),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(help="Query heads such as 0-3; default all.", rich_help_panel=_STEERING),
    ] = None,
    norm_rescale: Annotated[
        str | None,
        typer.Option(
            metavar="NORM",
            help="Rescale every image token's embedding to this norm: a number, or 'text' for the "
            "mean norm of the model's text embeddings.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    norm_clip: Annotated[
        str | None,
        typer.Option(
            metavar="NORM",
            help="Clip image embeddings at this norm: a number, or 'text' for the largest norm of "
            "text embeddings. Alone, it rescales nothing else.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions/--no-decisions",
            help="Answer GET /adaptvis/decisions/ID with what steering did to a request.",
            rich_help_panel=_SERVER,
        ),
    ] = False,
) -> None:
    """Serve a model with vLLM's OpenAI server, steered.

    Every option that is not listed here goes to vLLM as it is, for example `--port 8001`,
    `--max-model-len 4096` or `--api-key KEY`. The server listens on 127.0.0.1 unless `--host` says
    otherwise. On a CPU its key-value cache takes 4 GiB, or what VLLM_CPU_KVCACHE_SPACE says.

    A request chooses its own steering with `vllm_xargs`, whatever the server's default is:
    `{"adaptvis_alpha": 1.5}`, `{"adaptvis_alpha_low": 0.5, "adaptvis_alpha_high": 1.5}` or
    `{"adaptvis": "off"}`.

    Plain `vllm serve MODEL --additional-config '{"adaptvis": {"method": "scalingvis", "alpha":
    1.5}}'` does the same; this command checks the configuration before the model is loaded.

    Example: `adaptvis serve llava-hf/llava-1.5-7b-hf --alpha-low 0.5 --alpha-high 1.5 --decisions`
    """
    if model.startswith("-"):
        raise ConfigError(
            f"The model must come first, got {model!r}: adaptvis serve MODEL [options]"
        )
    flat = {
        "alpha": alpha,
        "alpha_low": alpha_low,
        "alpha_high": alpha_high,
        "threshold": threshold,
        "rows": rows,
        "layers": layers,
        "heads": heads,
    }
    resolved = resolve_model(model)
    configs = [
        config
        for config in (
            _attention(steering, {k: v for k, v in flat.items() if v is not None}, resolved),
            _norms(norm_rescale, norm_clip),
        )
        if config is not None
    ]
    for config in configs:
        _check_ranges(config, resolved)
    arguments = server_arguments(resolved, context.args, configs)
    environment = dict(os.environ)
    _check_vllm(environment, configs)
    _leave_memory(environment, context.args)
    if decisions or "VLLM_PLUGINS" in environment:
        environment["VLLM_PLUGINS"] = plugin_names(environment.get("VLLM_PLUGINS"), decisions)
    for config in configs:
        note(f"Default of this server: {config.to_json()}")
    _become([sys.executable, *arguments], environment)


def _become(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Go on as the server, so that signals reach it and its exit code is ours."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], list(command), environment)


def _check_vllm(environment: Mapping[str, str], configs: Sequence[SteeringConfig]) -> None:
    """Raises UnsupportedError or ConfigError where the server would start and not steer."""
    from adaptvis.vllm.plugin import DISABLE, check_vllm
    from adaptvis.vllm.support import RUST_FRONT_END, rust_front_end, switched_on

    if not switched_on(DISABLE, environment):
        check_vllm()
        if rust_front_end(environment) and any(not isinstance(c, NormRescale) for c in configs):
            raise ConfigError(
                f"{RUST_FRONT_END} is set, and adaptvis cannot steer behind vLLM's Rust front end; "
                "unset it, or leave the steering options out"
            )
    elif configs:
        raise ConfigError(
            f"{DISABLE} switches steering off, so the steering options would do nothing; unset it, "
            "or leave them out"
        )


def _leave_memory(environment: dict[str, str], options: Sequence[str]) -> None:
    """On a CPU vLLM asks for 92 % of all memory, and does not start where others hold the rest."""
    from adaptvis.vllm.plugin import is_cpu_build

    chosen = any(o.replace("_", "-").startswith(_MEMORY_OPTIONS) for o in options)
    if is_cpu_build() and not chosen:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")


def _attention(
    steering: str | None, flat: Mapping[str, Any], model: Model
) -> SteeringConfig | None:
    if steering is not None:
        if flat:
            raise ConfigError(
                f"Give either --steering or {_options(flat)}, not both; --steering takes all "
                "parameters as JSON"
            )
        return _named(steering, model)
    if not flat:
        return None
    adaptvis = [name for name in ("alpha_low", "alpha_high", "threshold") if name in flat]
    if "alpha" in flat and adaptvis:
        raise ConfigError(
            f"--alpha belongs to scalingvis and {_options(adaptvis)} to adaptvis; give one of them"
        )
    if "alpha" not in flat and not adaptvis:
        raise ConfigError(
            f"{_options(flat)} needs a coefficient: --alpha for scalingvis, or --alpha-low and "
            "--alpha-high for adaptvis"
        )
    return parse_config({"method": "scalingvis" if "alpha" in flat else "adaptvis", **flat})


def _named(text: str, model: Model) -> SteeringConfig:
    from adaptvis.presets import find_config, load_model_presets

    return find_config(text, load_model_presets(model.folder) if model.folder else None)


def _check_ranges(config: SteeringConfig, model: Model) -> None:
    """Raises ConfigError for layers or heads that the model has not."""
    if isinstance(config, TOKEN_METHODS):
        return
    if config.layers is None and config.heads is None:
        return
    try:
        text = model_config(model).get_text_config()
    except CheckpointError:
        # vLLM may know better, for example with --trust-remote-code; its engine checks again.
        return
    for name, indices, count in (
        ("layers", config.layers, text.num_hidden_layers),
        ("heads", config.heads, text.num_attention_heads),
    ):
        if indices is not None and max(indices) >= count:
            raise ConfigError(
                f"{name}: the model has {count} {name} (0 to {count - 1}), got {max(indices)}"
            )


def _norms(rescale: str | None, clip: str | None) -> NormRescale | None:
    if rescale is None and clip is None:
        return None
    return NormRescale(target=_norm("--norm-rescale", rescale), clip=_norm("--norm-clip", clip))


def _norm(option: str, text: str | None) -> Any:
    if text is None or text == "text":
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{option} takes a number or 'text', got {text!r}") from None


def _options(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
