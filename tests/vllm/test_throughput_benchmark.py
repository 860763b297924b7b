"""The throughput benchmark runs from end to end on the embedded model."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_offline_comparison_writes_its_table_and_leaves_no_process(tmp_path):
    output = tmp_path / "vllm_throughput.json"
    command = [sys.executable, "benchmarks/vllm_throughput.py", "offline"]
    numbers = ["--rounds", "1", "--count", "6", "--new-tokens", "2"]
    ran = subprocess.Popen(
        [*command, *numbers, "--output", str(output)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said, _ = ran.communicate()
    assert ran.returncode == 0, said
    with pytest.raises(ProcessLookupError):
        # Its engines were in its group.
        os.killpg(ran.pid, 0)
    (result,) = json.loads(output.read_text()).values()
    pairs = [(row["base"], row["ours"]) for row in result["rows"]]
    assert pairs == [("absent", "idle"), ("idle", "scalingvis"), ("idle", "adaptvis")]
    assert all(row["base_value"] > 0 and row["ratio"] > 0 for row in result["rows"])
    assert "| offline, 2 new tokens |" in output.with_suffix(".md").read_text()


def test_events_of_a_stream_end_at_line_feeds_only(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from vllm_bench.served import _lines

    async def chunks():
        text = 'data: {"a": "x\u2028y\u0085z"}\n\ndata: [DONE]\n'.encode()
        for start in range(0, len(text), 3):
            yield text[start : start + 3]

    async def read():
        return [line.decode() async for line in _lines(chunks())]

    assert asyncio.run(read()) == ['data: {"a": "x\u2028y\u0085z"}', "", "data: [DONE]"]
