"""Ask a running server about an image, without and with steering.

adaptvis serve tiny-2ds-shortcut-seed1 --dtype float32 --max-model-len 128 --decisions
python examples/serve_client.py

Needs the package `openai`; any other client of OpenAI's API sends the same fields.
"""

import argparse
import base64
import io
import json
import mimetypes
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from openai import APIConnectionError, OpenAI

# "off" wins over the server's default; the other two are ScalingVis and AdaptVis.
STEERINGS = (
    {"adaptvis": "off"},
    {"adaptvis_alpha": 2.0},
    {"adaptvis_alpha_low": 2.0, "adaptvis_alpha_high": 1.2, "adaptvis_threshold": 0.9},
)


def data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def own_scene() -> tuple[str, str]:
    """An image that comes with adaptvis, and a question that its embedded models know."""
    from adaptvis.data.two_ds import two_ds_samples

    sample = next(s for s in two_ds_samples(images_per_count=2) if "relation" in s.question)
    content = io.BytesIO()
    sample.image.save(content, "PNG")
    return data_url(content.getvalue(), "image/png"), sample.question


def decision(url: str, request_id: str) -> str:
    """What the server says about a request, where it was started with `--decisions`."""
    try:
        with urlopen(f"{url}/adaptvis/decisions/{request_id}") as answer:
            found = json.load(answer)
    except HTTPError as problem:
        return f"no decision: {problem} (was the server started with --decisions?)"
    if not found["applied"]:
        return f"not steered: {found['reason']}"
    return f"confidence {found['confidence']:.3f}, alpha {found['alpha']:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--model", help="default: the one that the server has")
    parser.add_argument("--image", type=Path, help="default: a scene that comes with adaptvis")
    parser.add_argument("--question", default="Where is the red object in the image?")
    arguments = parser.parse_args()
    client = OpenAI(base_url=f"{arguments.url}/v1", api_key="none")
    try:
        model = arguments.model or client.models.list().data[0].id
    except APIConnectionError:
        raise SystemExit(
            f"No server answers at {arguments.url}; start one with adaptvis serve, or give --url"
        ) from None
    question = arguments.question
    if arguments.image:
        kind = mimetypes.guess_type(arguments.image.name)[0] or "image/png"
        image = data_url(arguments.image.read_bytes(), kind)
    else:
        image, question = own_scene()
    content = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": question},
    ]
    print(question)
    for steering in STEERINGS:
        response = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=32,
            extra_body={
                "vllm_xargs": steering,
                # The chat templates of LLaVA leave out the token that starts every prompt. Not for
                # models whose template has it, such as Gemma 3.
                "add_special_tokens": True,
            },
        )
        answer = (response.choices[0].message.content or "").strip()
        print(f"{json.dumps(steering)}\n    {answer}  ({decision(arguments.url, response.id)})")


if __name__ == "__main__":
    main()
