"""vLLM 0.32 and 0.33. Its modules are imported where they are needed: some are large."""

from __future__ import annotations

import functools
import logging
from typing import Any

from adaptvis.errors import UnsupportedError

__all__ = ["V0_32", "Library", "warn_of_bodies"]

logger = logging.getLogger("vllm.adaptvis")


class V0_32:
    """The parts of vLLM that other versions keep elsewhere, or lack."""

    def offline_requests(self) -> Any:
        """The class whose ``_render_and_add_requests`` adds the prompts of an offline call."""
        from vllm.entrypoints.common.offline import OfflineInferenceMixin

        return OfflineInferenceMixin

    def sender_cache(self) -> Any:
        """The class of the front end's notes about images that its engine holds."""
        from vllm.multimodal.cache import LruKeyReplicatedSenderCache

        return LruKeyReplicatedSenderCache

    def forget_image(self, cache: Any, mm_hash: str) -> None:
        """Take an image off those notes."""
        cache.invalidate(mm_hash)

    def error_response(self, error: Exception) -> Any:
        """What the server answers; with ``model_dump()`` and ``error.code``."""
        from vllm.entrypoints.serve import create_error_response

        return create_error_response(error)

    def authentication(self, tokens: list[str]) -> Any:
        """The server's check of API keys, with ``verify_token(headers)``."""
        from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

        return AuthenticationMiddleware(None, tokens)

    def add_to_servers(self, middleware: Any) -> None:
        """Have every application that is built from now on run ``middleware`` behind its own."""
        from vllm.entrypoints.launchers import app as launcher

        add_middleware = launcher.init_entrypoints_middleware
        if getattr(add_middleware, "_adaptvis", False):
            return

        @functools.wraps(add_middleware)
        def added(*args: Any, **kwargs: Any) -> Any:
            # An unknown vLLM may order its arguments otherwise.
            given = (*args, *kwargs.values())
            app = next((one for one in given if hasattr(one, "add_middleware")), None)
            if app is None:
                warn_of_bodies("no application is given to init_entrypoints_middleware")
            else:
                # The first is the innermost: behind the one that asks for the key.
                app.add_middleware(middleware)
            return add_middleware(*args, **kwargs)

        added._adaptvis = True  # type: ignore[attr-defined]
        launcher.init_entrypoints_middleware = added

    def takes_images(self, model_config: Any) -> bool:
        """Whether a model, as it is configured, takes anything but text."""
        return bool(model_config.supports_multimodal_inputs)

    def prompt_length(self, new_request: Any) -> int:
        """Tokens of the prompt of one of a step's ``scheduled_new_reqs``."""
        return int(new_request.prompt_len)

    def kernel_blocks(self, runner: Any) -> list[int]:
        """As how many smaller blocks attention sees each block of a V2 runner, by cache group.

        Raises:
            UnsupportedError: other layers lie between the smaller ones.
        """
        sizes = list(runner.block_tables.block_sizes)
        parts = [1] * len(sizes)
        for index, (size, groups) in enumerate(zip(sizes, runner.attn_groups, strict=True)):
            for group in groups:
                kernel_size = group.kernel_block_size or size
                if group.kernel_block_stride not in (0, size // kernel_size):
                    raise UnsupportedError(
                        f"adaptvis cannot read a key-value cache whose blocks of {size} tokens are "
                        f"split into blocks of {kernel_size} with other layers between them; set "
                        f"--block-size {kernel_size}, or run vLLM with ADAPTVIS_DISABLE=1"
                    )
                parts[index] = size // kernel_size
        return parts

    def counts_kernel_blocks(self) -> bool:
        """Whether a V2 runner's tables are of the smaller blocks already."""
        return False


def warn_of_bodies(problem: object) -> None:
    """Say that a server's requests are not looked through, and what that means."""
    logger.warning(
        "adaptvis cannot look through the bodies of HTTP requests on this vLLM (%s): steering "
        "outside of vllm_xargs is passed over there without a word.",
        problem,
    )


Library = V0_32
