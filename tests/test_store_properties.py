"""The store behaves like a dictionary that keeps its first values, whatever is put and whoever looks."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mqnative.store import Store, content_key
from mqnative.store.keys import canonical_json

# Lone surrogates included: they stand for bytes of names that are no UTF-8.
text = st.text(st.characters(), max_size=8) | st.sampled_from(["", "\udcff", "\0", "1", "é"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.sampled_from([0, 1, 0.0, -0.0, 1.0, 2**53, 2.0**53, 10**30, 5e-324])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
mappings = st.dictionaries(text, values, max_size=4)


def exact(value: Any) -> Any:
    """Equal only for the same JSON: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, dict):
        return "object", frozenset((key, exact(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return "array", tuple(exact(inner) for inner in value)
    return type(value).__name__, repr(value)


def disguised(value: Any) -> Any:
    """The same JSON from other Python: reversed and read-only mappings, tuples."""
    if isinstance(value, dict):
        return MappingProxyType({key: disguised(value[key]) for key in reversed(value)})
    return tuple(map(disguised, value)) if isinstance(value, list) else value


@settings(deadline=None)  # the machine may be busy
@given(mappings)
def test_canonical_json_is_json_and_ascii_and_ignores_order(mapping: dict[str, Any]) -> None:
    written = canonical_json(mapping)
    assert written.isascii()
    assert exact(json.loads(written)) == exact(mapping)
    assert canonical_json(disguised(mapping)) == written


@settings(deadline=None)
@given(mappings, mappings | st.none(), st.sampled_from(["probe", "errors"]))
def test_keys_are_equal_when_kind_and_inputs_are(
    first: dict[str, Any], second: dict[str, Any] | None, kind: str
) -> None:
    other = first if second is None else second
    same = kind == "probe" and exact(first) == exact(other)
    assert (content_key("probe", first) == content_key(kind, other)) == same


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new store, to be copied: making one takes many syncs."""
    folder = tmp_path_factory.mktemp("empty-store")
    Store.open(folder).close()
    return folder


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("shared-store")) as store:
        yield store


@settings(max_examples=60, deadline=None)
@given(inputs=mappings, value=mappings, data=st.none() | st.binary(max_size=64))
def test_any_measurement_comes_back_unchanged(
    shared_store: Store, inputs: dict[str, Any], value: dict[str, Any], data: bytes | None
) -> None:
    before = shared_store.get("probe", inputs)
    shared_store.put("probe", inputs, value, data)
    found = shared_store.get("probe", disguised(inputs))
    assert found is not None
    assert exact(found.inputs) == exact(inputs)
    if before is None:
        assert (exact(found.value), found.data) == (exact(value), data)
    else:
        assert found == before


kinds = st.sampled_from(["probe", "errors"])
# Few, so that rules meet each other's rows; some differ by their type only.
few_inputs = st.sampled_from([{"n": n} for n in (0, 1, 1.0, True, "1", None)] + [{}, {"m": 0}, {"m": [0]}])
few_values = st.fixed_dictionaries({"v": st.integers(0, 9)})
rows = st.tuples(few_inputs, few_values, st.none() | st.binary(max_size=3))


class StoreMachine(RuleBasedStateMachine):
    """Two connections to one store, and the dictionary that both should agree with."""

    empty: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mqnative-store-"))
        shutil.copy(self.empty / "mqnative.db", self.folder)
        self.stores = [Store.open(self.folder), Store.open(self.folder)]
        self.expected: dict[tuple[str, Any], tuple[dict[str, Any], bytes | None]] = {}

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    def store(self, which: bool) -> Store:
        return self.stores[which]

    def expect(self, kind: str, inputs: dict[str, Any], value: dict[str, Any], data: bytes | None) -> None:
        self.expected.setdefault((kind, exact(inputs)), (value, data))

    @rule(which=st.booleans(), kind=kinds, row=rows)
    def put(self, which: bool, kind: str, row: tuple[Any, Any, Any]) -> None:
        self.store(which).put(kind, *row)
        self.expect(kind, *row)

    @rule(which=st.booleans(), kind=kinds, several=st.lists(rows, max_size=4))
    def put_many(self, which: bool, kind: str, several: list[tuple[Any, Any, Any]]) -> None:
        self.store(which).put_many(kind, iter(several))
        for row in several:
            self.expect(kind, *row)

    @rule(which=st.booleans(), kind=kinds, several=st.lists(rows, max_size=4))
    def put_many_and_fail(self, which: bool, kind: str, several: list[tuple[Any, Any, Any]]) -> None:
        with pytest.raises(TypeError):
            self.store(which).put_many(kind, [*several, ({}, {"v": object()}, None)])

    @rule()
    def leave_inside_a_transaction(self) -> None:
        with closing(Store.open(self.folder)) as store:
            store._database.execute("BEGIN IMMEDIATE")
            store._database.execute("DELETE FROM measurements")

    @rule(which=st.booleans())
    def open_again(self, which: bool) -> None:
        self.stores[which].close()
        self.stores[which] = Store.open(self.folder)

    @rule(which=st.booleans(), kind=kinds, asked=st.lists(few_inputs, max_size=6))
    def get_many(self, which: bool, kind: str, asked: list[Mapping[str, Any]]) -> None:
        found = self.store(which).get_many(kind, asked)
        assert [m and (m.value, m.data) for m in found] == [
            self.expected.get((kind, exact(inputs))) for inputs in asked
        ]
        assert [self.store(which).get(kind, inputs) for inputs in asked] == found

    @invariant()
    def both_hold_what_is_expected(self) -> None:
        for store in self.stores:
            assert store.count() == len(self.expected)
            for kind in ("probe", "errors"):
                held = {(kind, exact(m.inputs)): (m.value, m.data) for m in store.all_of(kind)}
                assert held == {key: row for key, row in self.expected.items() if key[0] == kind}


def test_the_store_is_a_dictionary_that_keeps_its_first_values(empty_store: Path) -> None:
    StoreMachine.empty = empty_store
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
