"""NormRescale for all images of an engine: vLLM shares image embeddings between requests."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from vllm.v1.worker.gpu_worker import Worker

from adaptvis.config import NormRescale
from adaptvis.errors import UnsupportedError
from adaptvis.steering.backend import rescale_norms
from adaptvis.steering.norms import measure_norms, target_and_clip
from adaptvis.vllm.parameters import read_server

__all__ = ["install_norm_rescale", "install_norms"]


def install_norm_rescale() -> None:
    """Rescale in every worker whose server asks for it; a second call changes nothing."""
    load_model = Worker.load_model
    if getattr(load_model, "_adaptvis", False):
        return

    @functools.wraps(load_model)
    def loaded(self: Any, *args: Any, **kwargs: Any) -> None:
        load_model(self, *args, **kwargs)
        config = read_server(self.vllm_config.additional_config).norms
        if config is not None:
            install_norms(self.model_runner, config)

    loaded._adaptvis = True  # type: ignore[attr-defined]
    Worker.load_model = loaded


@torch.inference_mode()
def install_norms(runner: Any, config: NormRescale) -> None:
    """Shadow ``embed_multimodal`` of a runner's model, before anything is profiled or cached.

    All ranks of a tensor-parallel engine must call it together: they share the embedding table.

    Raises:
        UnsupportedError: image embeddings of this engine do not all come from there.
    """
    _check(runner.vllm_config)
    model = runner.get_model()
    text = runner.model_config.hf_text_config
    norms = torch.zeros(1)
    if "text" in (config.target, config.clip):
        norms = measure_norms(model.embed_input_ids, text.vocab_size, runner.device)
    target, clip = target_and_clip(config, norms)
    vision = getattr(runner.model_config.hf_config, "vision_config", None)
    deeper = len(getattr(vision, "deepstack_visual_indexes", None) or ())
    original = model.embed_multimodal

    def rescaled(features: Tensor) -> Tensor:
        width = text.hidden_size
        if features.shape[-1] not in (width, width * (1 + deeper)):
            raise UnsupportedError(
                f"NormRescale expects image embeddings of {width} numbers from "
                f"{type(model).__name__}, got {features.shape[-1]}; leave norm_rescale out of "
                "--additional-config for this model"
            )
        if features.shape[-1] == width:
            return rescale_norms(features, target, clip)
        # Features for deeper layers stand behind those that become the decoder's input.
        first = rescale_norms(features[..., :width].contiguous(), target, clip)
        return torch.cat((first, features[..., width:]), dim=-1)

    @functools.wraps(original)
    def embed_multimodal(**kwargs: Any) -> Any:
        outputs = original(**kwargs)
        # One call embeds one modality, which the names of its inputs tell.
        if outputs is None or any("video" in name or "audio" in name for name in kwargs):
            return outputs
        if isinstance(outputs, Tensor):
            return rescaled(outputs)
        return [rescaled(features) for features in outputs]

    model.embed_multimodal = embed_multimodal


def _check(vllm_config: Any) -> None:
    if vllm_config.compilation_config.cudagraph_mm_encoder:
        raise UnsupportedError(
            "norm_rescale is not supported with CUDA graphs of the vision encoder; set "
            "cudagraph_mm_encoder to false in --compilation-config"
        )
    if vllm_config.ec_transfer_config is not None:
        raise UnsupportedError(
            "norm_rescale is not supported with embeddings from another instance; leave "
            "--ec-transfer-config out"
        )
