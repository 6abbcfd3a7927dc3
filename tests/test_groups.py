"""Groups: where every tensor of every architecture lands, and what users may add."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import upstream_names
from mqnative.core.presets import quantizable
from mqnative.errors import GroupError
from mqnative.formats.group_table import LETTERS, OTHERS, ROLES
from mqnative.formats.groups import (
    Label,
    TensorName,
    UserGroup,
    by_group,
    label,
    label_tensors,
    letter_pattern,
    reading_rank,
    unknown_warning,
)

needs_tree = pytest.mark.skipif(
    not (upstream_names.SOURCE / "llama-arch.cpp").is_file(), reason="the pinned tree is not at third_party"
)
GOLDEN = Path(__file__).parent / "golden" / "tensor_groups.txt"


def every_name() -> list[str]:
    return [name.replace("%d", "3") + ".weight" for name in upstream_names.table().values()]


@needs_tree
def test_what_lands_where_is_what_was_reviewed() -> None:
    assert upstream_names.groups_text() == GOLDEN.read_text(encoding="utf-8"), (
        "run tests/golden/tensor_groups.py"
    )


@needs_tree
def test_every_tensor_of_every_architecture_is_known() -> None:
    architectures = upstream_names.architectures()
    assert len(architectures) > 100
    unknown = {(a, n) for a, names in architectures.items() for n in names if not label(n).known}
    assert unknown == set()
    assert [n for n in every_name() if not label(n).known] == []


@needs_tree
def test_the_table_holds_no_role_that_upstream_does_not_have() -> None:
    upstream = {TensorName.of(name).role for name in every_name()}
    assert [role for role in ROLES if role not in upstream] == []


@needs_tree
def test_what_upstream_never_quantizes_is_never_or_a_router_and_the_other_way_round() -> None:
    # Two-dimensional, so that only the names decide.
    verdicts = quantizable("llama", dict.fromkeys(every_name(), (256, 256)))
    refused = {name for name, allowed in verdicts.items() if not allowed}
    # Vectors in every model, whatever their names allow.
    vectors = {n for n in every_name() if label(n).part in ("rope", "sinks", "norm", "bias", "act")}
    never = {n for n in every_name() if label(n).group == "never"}
    assert refused <= never | {n for n in every_name() if str(label(n)) == "R"}
    assert never - vectors - {n for n in every_name() if ".altup" in n} <= refused


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "E"),
        ("output.weight", "H"),
        ("blk.12.attn_q.weight", "Q"),
        ("blk.12.attn_qkv.weight", "Q.qkv"),
        ("blk.12.attn_k.weight", "K.k"),
        ("blk.12.attn_v.weight", "K.v"),
        ("blk.12.attn_output.weight", "O"),
        ("blk.0.ffn_up.weight", "U.up"),
        ("blk.0.ffn_gate.weight", "U.gate"),
        ("blk.0.ffn_down.weight", "D"),
        ("blk.0.ffn_down_exps.weight", "X.down"),
        ("blk.0.ffn_up_shexp.weight", "X.shared_up"),
        ("blk.0.ffn_gate.7.weight", "X.gate"),
        ("blk.0.ffn_gate_inp.weight", "R"),
        ("blk.0.ssm_out.weight", "ssm.out"),
        ("blk.0.attn_gate.weight", "attn_gate"),
        ("blk.0.attn_kv_b.weight", "K.mla_b"),
        ("per_layer_token_embd.weight", "per_layer.embd"),
        ("blk.61.nextn.eh_proj.weight", "mtp.eh_proj"),
        ("blk.0.attn_q_norm.weight", "never.norm"),
        ("blk.0.attn_q.bias", "never.bias"),
        ("blk.0.exp_probs_b.bias", "never.bias"),
        ("blk.0.ssm_a", "never.vector"),
        ("dec.blk.3.cross_attn_v.weight", "K.cross_v"),
        ("v.blk.0.attn_q.weight", "projector"),
        ("mm.0.weight", "projector"),
        # Nothing but the whole name counts.
        ("blk.0.output.weight", "unknown"),
        ("attn_q.weight", "unknown"),
        ("blk.0.xattn_q.weight", "unknown"),
        ("blk.0.attn_q.weights", "unknown"),
        ("blk.x.attn_q.weight", "unknown"),
        ("token_embd", "never.vector"),
        ("", "unknown"),
    ],
)
def test_labels(name: str, expected: str) -> None:
    assert str(label(name)) == expected


@given(st.text(max_size=40))
def test_any_name_has_a_label_of_a_listed_group(name: str) -> None:
    assert label(name).group in {*LETTERS, *OTHERS}


@needs_tree
@pytest.mark.parametrize("letter", LETTERS)
def test_a_letters_pattern_matches_its_tensors_and_no_others(letter: str) -> None:
    pattern = re.compile(letter_pattern(letter))
    for name in every_name():
        assert bool(pattern.fullmatch(name)) == (label(name).letter == letter), name


def test_there_is_no_pattern_for_what_is_no_letter() -> None:
    with pytest.raises(GroupError) as caught:
        letter_pattern("Z")
    assert caught.value.group == "Z"


def test_a_block_with_a_prediction_head_is_mtp_but_for_what_is_never_quantized() -> None:
    names = [
        "blk.0.attn_q.weight",
        "blk.1.attn_q.weight",
        "blk.1.nextn.eh_proj.weight",
        "blk.1.attn_norm.weight",
    ]
    labels = [str(found) for found in label_tensors(names).values()]
    assert labels == ["Q", "mtp.attn_q", "mtp.eh_proj", "never.norm"]


def test_users_groups_come_first_and_match_whole_names() -> None:
    names = ["blk.0.attn_q.weight", "blk.10.attn_q.weight", "blk.0.ffn_up.weight"]
    found = label_tensors(names, [UserGroup.parse(r"first=blk\.0\..*"), UserGroup("X", r".*ffn_up\.weight")])
    assert list(found.values()) == [Label("first"), Label("Q"), Label("first")]


@pytest.mark.parametrize("text", ["", "a", "a=", "=x", "1a=x", "a b=x", "a=("])
def test_a_malformed_group_is_refused(text: str) -> None:
    with pytest.raises(GroupError):
        UserGroup.parse(text)


def test_a_group_without_tensors_is_a_mistake() -> None:
    with pytest.raises(GroupError, match="matches no tensor") as caught:
        label_tensors(["blk.0.attn_q.weight"], [UserGroup("mine", "attn_q")])
    assert caught.value.group == "mine"


def test_unknown_tensors_are_warned_about_and_nothing_more() -> None:
    labels = label_tensors(["token_embd.weight", "blk.0.novel.weight"])
    assert labels["blk.0.novel.weight"].letter is None
    assert unknown_warning(labels) == "1 tensors of no known group follow the base: blk.0.novel.weight"
    assert unknown_warning(label_tensors(["token_embd.weight"])) is None


def test_groups_come_in_the_order_of_names() -> None:
    names = ["blk.0.ffn_down.weight", "blk.0.ssm_out.weight", "blk.0.attn_v.weight", "token_embd.weight"]
    assert list(by_group(label_tensors(names))) == ["E", "K", "D", "ssm"]


def test_reading_order() -> None:
    roles = ["ffn_down", "nobody_knows", "attn_output", "token_embd", "ffn_up_exps", "attn_q", "ffn_gate.5"]
    assert sorted(roles, key=reading_rank) == [
        "token_embd", "attn_q", "attn_output", "ffn_down", "ffn_gate.5", "ffn_up_exps", "nobody_knows",
    ]  # fmt: skip
