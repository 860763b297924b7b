"""vLLM 0.26 to 0.28."""

from __future__ import annotations

import functools
import sys
from typing import Any

from adaptvis.vllm.versions.v0_30 import V0_30
from adaptvis.vllm.versions.v0_32 import warn_of_bodies

__all__ = ["V0_26"]


class V0_26(V0_30):
    """Before the server's middleware had modules of its own."""

    def forget_image(self, cache: Any, mm_hash: str) -> None:
        # 0.28 has invalidate, which does the same.
        cache._cache.pop(mm_hash, None)

    def error_response(self, error: Exception) -> Any:
        try:
            from vllm.entrypoints.serve.exception_handling.error_response import (
                create_error_response,
            )
        except ImportError:
            # 0.26 and 0.27.
            from vllm.entrypoints.serve.utils.error_response import create_error_response
        return create_error_response(error)

    def authentication(self, tokens: list[str]) -> Any:
        from vllm.entrypoints.serve.utils.server_utils import AuthenticationMiddleware

        return AuthenticationMiddleware(None, tokens)

    def add_to_servers(self, middleware: Any) -> None:
        from vllm.entrypoints.openai import api_server

        # Run as a script, it is a second module that the other never sees.
        modules: tuple[Any, ...] = (api_server, sys.modules["__main__"])
        for module in modules:
            name = getattr(getattr(module, "__spec__", None), "name", "")
            if name == api_server.__name__ and not hasattr(module.build_app, "_adaptvis"):
                module.build_app = _with_middleware(module.build_app, middleware)

    def prompt_length(self, new_request: Any) -> int:
        # Prompts given as embeddings hold no image.
        return len(new_request.prompt_token_ids or ())


def _with_middleware(build: Any, middleware: Any) -> Any:
    from starlette.middleware import Middleware

    @functools.wraps(build)
    def built(*args: Any, **kwargs: Any) -> Any:
        app = build(*args, **kwargs)
        if hasattr(app, "user_middleware"):
            # The last is the innermost: behind the one that asks for the key.
            app.user_middleware.append(Middleware(middleware))
        else:
            warn_of_bodies("build_app returns no application")
        return app

    built._adaptvis = True  # type: ignore[attr-defined]
    return built
