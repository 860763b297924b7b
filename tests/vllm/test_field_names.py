"""Names that can only be meant as ours are found, wherever they stand; those of others are not."""

from __future__ import annotations

import json

import pytest

from adaptvis.errors import ConfigError
from adaptvis.vllm.field_names import check_places, may_hold_fields, meant, misnamed

TOKENS = "sampling_params.extra_args"
MISSPELT = {
    "adaptviz_alpha": "adaptvis_alpha",
    "adaptvis-alpha": "adaptvis_alpha",
    "AdaptVis_alpha": "adaptvis_alpha",
    "ADAPTVIS_ALPHA_LOW": "adaptvis_alpha_low",
    "AdaptVisAlpha": "adaptvis_alpha",
    "adaptvisalphalow": "adaptvis_alpha_low",
    "adapt_vis_layers": "adaptvis_layers",
    "adaptvis.rows": "adaptvis_rows",
    "adatpvis_heads": "adaptvis_heads",
    "adaptvs_threshold": "adaptvis_threshold",
    "adabtviz_alpha": "adaptvis_alpha",
    "x-adaptvis-alpha": "adaptvis_alpha",
    " adaptvis": "adaptvis",
    "AdaptVis": "adaptvis",
    "scalingvis": "adaptvis_method",
    "scaling_vis_alpha": "adaptvis_alpha",
    "alpha": "adaptvis_alpha",
    "alpha_high": "adaptvis_alpha_high",
    "Alpha": "adaptvis_alpha",
    "alpha-low": "adaptvis_alpha_low",
    "alphaHigh": "adaptvis_alpha_high",
}
OTHERS = [
    *("adaptive", "adaptive_alpha", "adaptive_threshold", "adapter", "adapters", "lora_adapter"),
    *("adaptvision", "adaptation", "scaling", "rope_scaling", "scaling_factor", "lora_alpha"),
    *("cd_alpha", "my_alpha", "alphabet", "session_id", "kv_transfer_params", "vision", "vis"),
    *("threshold", "layers", "method", "rows", "images", "temperature", "", "ä", "1"),
]


@pytest.mark.parametrize(("name", "right"), MISSPELT.items())
def test_a_misspelt_field_is_found_and_its_right_name_given(name, right) -> None:
    assert misnamed([name, "temperature"]) == [name]
    assert meant(name) == right


def test_names_of_others_are_left_alone() -> None:
    assert misnamed(OTHERS) == []
    assert misnamed(["adaptvis_alpha", "adaptvis", "adaptvis_ticket"]) == []
    assert misnamed(["alpha", "alpha_low"], bare=False) == []


def test_a_field_without_its_prefix_is_ours_in_the_company_of_ours() -> None:
    assert misnamed(["adaptvis_method", "threshold", "top_k"]) == ["threshold"]
    assert misnamed(["alpha", "layers"]) == ["alpha", "layers"]


def test_a_method_is_ours_where_its_value_is() -> None:
    assert misnamed({"method": "adaptvis", "threshold": 0.4}) == ["method", "threshold"]
    assert misnamed({"method": "greedy", "threshold": 0.4}) == []
    assert misnamed({"method": "adaptvis"}, bare=False) == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"adaptvis_alpha": 3}, "'adaptvis_alpha' at the top level of the request"),
        ({"adaptviz_alpha": 3}, "'adaptviz_alpha' at the top level of the request"),
        ({"alpha": 3}, "'alpha' at the top level of the request"),
        ({"extra_args": {"adaptvis": "off"}}, "'adaptvis' in extra_args"),
        ({"extra_args": {"alpha_low": 1}}, "'alpha_low' in extra_args"),
        (
            {"extra_body": {"vllm_xargs": {"adaptvis_alpha": 3}}},
            "'adaptvis_alpha' in extra_body.vllm_xargs",
        ),
        (
            {"sampling_params": {"extra_args": {"adaptvis_alpha": 3}}},
            "'adaptvis_alpha' in sampling_params.extra_args",
        ),
        ({"chat_template_kwargs": {"adaptvis_alpha": 3}}, "in chat_template_kwargs"),
        ({"messages": [{"role": "user", "adaptvis_alpha": 3}]}, r"in messages\[0\]"),
        ({"mine": [[{"adaptvis_alpha": 3}]]}, r"in mine\[0\]\[0\]"),
        ({"a": {"b": {"c": {"d": {"e": {"adaptvis_alpha": 3}}}}}}, r"in a\.b\.c\.d\.e"),
        ({"method": "adaptvis", "threshold": 0.4}, "'method', 'threshold' at the top level"),
        ({"extra_body": {"method": "ScalingVis"}}, "'method' in extra_body"),
    ],
)
def test_a_field_in_the_wrong_place_is_named_with_both_places(body, found) -> None:
    assert may_hold_fields(json.dumps({"model": "m", **body}).encode())
    with pytest.raises(ConfigError, match=f"{found}.* would steer nothing; .*vllm_xargs"):
        check_places(body)


@pytest.mark.parametrize(
    "body",
    [
        {"vllm_xargs": {"adaptvis_alpha": 3}},
        {"vllm_xargs": None},
        {"metadata": {"adaptvis_alpha": "3"}},
        {"tools": [{"function": {"parameters": {"properties": {"alpha": {}}}}}]},
        {"chat_template_kwargs": {"alpha": 1, "method": "adaptvis"}},
        {"method": "off"},
        {"messages": [{"role": "user", "content": "adaptvis_alpha: 3"}]},
    ],
)
def test_what_is_in_its_place_or_the_clients_own_passes(body) -> None:
    check_places(body)


def test_token_requests_are_read_elsewhere() -> None:
    check_places({"sampling_params": {"extra_args": {"adaptvis_alpha": 3}}}, TOKENS)
    with pytest.raises(ConfigError, match=r"in vllm_xargs .* belongs into sampling_params"):
        check_places({"vllm_xargs": {"adaptvis_alpha": 3}}, TOKENS)


def test_a_body_without_our_fields_is_not_parsed() -> None:
    picture = "A" * 10_000
    body = {"model": "m", "messages": [{"content": picture}], "threshold": 1, "adaptive": 1}
    assert not may_hold_fields(json.dumps(body).encode())
    assert may_hold_fields(b'{"vllm_xargs" : {}}')
