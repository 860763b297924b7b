"""Parts of the vLLM benchmark: models, requests, an engine in its own process, a server."""
