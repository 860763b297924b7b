"""An offline engine in a process of its own, which answers commands: one JSON line each way.

    python -m vllm_bench.worker SETTINGS

SETTINGS is JSON: ``model``, ``large``, ``count`` and ``options`` of ``vllm.LLM``. A command is
``{"config": CONFIGURATION or null, "new_tokens": N}``; its answer has the seconds of one batch of
all requests and the token ids. Nothing that an earlier batch cached is used.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from vllm_bench.workload import requests_for


def main() -> None:
    """Serve commands until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What vLLM and its children print goes to the log.
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])

    from vllm import LLM, SamplingParams

    llm = LLM(
        model=settings["model"],
        use_tqdm_on_load=False,
        **({"dtype": "float32", "enforce_eager": True} | settings["options"]),
    )
    tokenizer = llm.get_tokenizer()
    prompts = []
    for request in requests_for(settings["large"], settings["count"]):
        content = [{"type": "image"}, {"type": "text", "text": request.question}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        prompts.append({"prompt": text, "multi_modal_data": {"image": request.image}})

    def answer(config: dict[str, Any] | None, new_tokens: int) -> dict[str, Any]:
        llm.reset_prefix_cache()
        llm.reset_mm_cache()
        llm.llm_engine.reset_encoder_cache()
        parameters = SamplingParams(
            temperature=0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args=None if config is None else {"adaptvis": json.dumps(config)},
        )
        start = time.perf_counter()
        outputs = llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        }

    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
