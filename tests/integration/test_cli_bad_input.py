"""What people get wrong, one thing at a time, through the installed command line.

Each mistake ends with the right exit code, one sentence on standard error that names the thing at fault and
the way out, the same as a JSON object on standard output, and a folder that looks as before.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_process import COMMAND, FAILED, USAGE, mqnative
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue
from mqnative.formats.gguf_splits import split_name
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.qtypes import qtype
from tiny_models import TinyModels, write_model

Q = "blk.0.attn_q.weight"
NORM = "blk.0.attn_norm.weight"
ROUTER = "blk.0.ffn_gate_inp.weight"
SHORT = ("--ctx", 16, "--chunks", 2, "-t", 1)
TWO_THREADS = ("-t", 2)  # ggml's own threads, where an abort is out of reach


class Kit:
    """Good files, and ways to break copies of them.

    Attributes:
        folder: where the command runs and the broken files lie.
    """

    def __init__(self, folder: Path, models: TinyModels, text: Path) -> None:
        self.folder = folder
        self.models = models
        self.text = text

    @property
    def dense(self) -> Path:
        return self.models.dense

    @cached_property
    def matrices(self) -> dict[str, tuple[int, ...]]:
        with GGUFFile.open(self.dense) as file:
            return {name: t.shape for name, t in file.tensors.items() if len(t.shape) == 2}

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def bytes_changed(self, at: int, new: bytes) -> Path:
        raw = bytearray(self.dense.read_bytes())
        raw[at : at + len(new)] = new
        return self.file("broken.gguf", bytes(raw))

    def tensor_info(self, name: str) -> int:
        """Where the number of dimensions of a 2-D tensor stands; its lengths, type and offset follow."""
        stored = struct.pack("<Q", len(name)) + name.encode()
        raw = self.dense.read_bytes()
        assert raw.count(stored) == 1
        return raw.index(stored) + len(stored)

    def weight_changed(self, value: float, name: str = Q) -> Path:
        with GGUFFile.open(self.dense) as file:
            info = file.tensors[name]
        stored = struct.pack("<f", value)
        if info.qtype.name == "F32":
            return self.bytes_changed(info.offset + 4 * 77, stored)
        assert info.qtype.name == "BF16"
        return self.bytes_changed(info.offset + 2 * 777, stored[2:])

    def rewritten(
        self,
        metadata: Mapping[str, MetaValue | None] = {},
        types: Mapping[str, str] = {},
        left_out: str = "",
    ) -> Path:
        """A sound file of an unsound model: other metadata, tensors in other types (zeros), or absent."""
        path = self.folder / "model.gguf"
        with GGUFFile.open(self.dense) as file:
            merged: dict[str, MetaValue | None] = {**file.metadata, **metadata}
            keys = {k: v for k, v in merged.items() if v is not None}
            order = [
                (name, t.shape, qtype(types.get(name, t.qtype.name)))
                for name, t in file.tensors.items()
                if name != left_out
            ]

            def write_tensor(slot: TensorSlot, out: Any) -> None:
                out.write(bytes(slot.size_bytes) if slot.name in types else file.data(slot.name))

            write_gguf(path, GGUFLayout.plan(keys, order), write_tensor)
        return path

    def imatrix(
        self,
        left_out: str = "",
        lengths: Mapping[str, int] = {},
        value: float = 1.0,
    ) -> Path:
        """Importances of 1 for every matrix; ``value`` in one place of Q."""
        tensors = {}
        for name, shape in self.matrices.items():
            if name != left_out:
                values = np.ones((1, lengths.get(name, shape[0])), np.float32)
                values[0, 9] = value if name == Q else 1.0
                tensors[f"{name}.in_sum2"] = (values, "F32")
                tensors[f"{name}.counts"] = (np.ones((1, 1), np.float32), "F32")
        metadata = {
            "general.type": MetaValue.string("imatrix"),
            "imatrix.datasets": MetaValue.array(MetaType.STRING, ["text"]),
            "imatrix.chunk_count": MetaValue.u32(1),
            "imatrix.chunk_size": MetaValue.u32(512),
        }
        return write_model(self.folder / "imatrix.gguf", metadata, tensors)

    def recipe(self, text: str) -> tuple[object, ...]:
        self.file("recipe.yaml", f"mqnative: recipe/1\n{text}")
        return "build", self.dense, "-r", "recipe.yaml", "-o", "out.gguf"

    def build(self, model: Path, preset: str = "Q8_0", *more: object) -> tuple[object, ...]:
        return "build", model, "--preset", preset, "-o", "out.gguf", *more

    def eval(self, model: object, text: object = None, *more: object) -> tuple[object, ...]:
        return "eval", model, "-f", text or self.text, *SHORT, *more

    def collect(self, model: object, text: object = None, *more: object) -> tuple[object, ...]:
        return "imatrix", model, "-f", text or self.text, *SHORT, "-o", "out.gguf", *more


@dataclass(frozen=True)
class Mistake:
    """A command that must be refused.

    Attributes:
        command: its arguments, and the files it needs, made on the way.
        error: the class in the JSON object.
        says: what the sentence must name, and the way out.
        code: the exit code.
    """

    command: Callable[[Kit], tuple[object, ...]]
    error: str
    says: tuple[str, ...]
    code: int = FAILED


def in_header(change: Callable[[Kit], Path]) -> Callable[[Kit], tuple[object, ...]]:
    return lambda kit: kit.eval(change(kit))


def offset_of(kit: Kit, name: str) -> int:
    return kit.tensor_info(name) + 4 + 2 * 8 + 4


def overlapping(kit: Kit) -> Path:
    place = kit.dense.read_bytes()[offset_of(kit, Q) :][:8]
    return kit.bytes_changed(offset_of(kit, "blk.0.attn_k.weight"), place)


def duplicated(kit: Kit) -> Path:
    other = "blk.1.attn_q.weight"
    return kit.bytes_changed(kit.tensor_info(other) - len(other), Q.encode())


def cut_short(kit: Kit, size: int) -> Path:
    return kit.file("broken.gguf", kit.dense.read_bytes()[:size])


def lonely_part(kit: Kit) -> tuple[object, ...]:
    part = kit.models.split
    return kit.build(kit.file(part.name, part.read_bytes()))


def second_part(kit: Kit) -> tuple[object, ...]:
    first = kit.models.split
    return kit.build(first.with_name(split_name("builtin", 1, 3)))


GGUF: dict[str, Mistake] = {
    "a model that is not there": Mistake(
        lambda k: k.eval("nope.gguf"), "GGUFError", ("nope.gguf does not exist", "check the spelling")
    ),
    "a folder without a model": Mistake(
        lambda k: k.eval(k.folder), "SourceError", ("holds no model", "config.json")
    ),
    "a hub id that is not on this machine": Mistake(
        lambda k: (*k.eval("org/name"), "--offline"), "HubError", ("org/name", "offline")
    ),
    "a hub id without its revision": Mistake(
        lambda k: k.eval("org/name@"), "SourceError", ("org/name@revision",)
    ),
    "a text": Mistake(lambda k: k.build(k.text), "GGUFError", ("not GGUF", "name a .gguf file")),
    "an empty file": Mistake(lambda k: k.build(k.file("e.gguf", "")), "GGUFError", ("e.gguf is empty",)),
    "a header cut short": Mistake(in_header(lambda k: cut_short(k, 1000)), "GGUFError", ("truncated",)),
    "data cut short": Mistake(
        lambda k: k.build(cut_short(k, k.dense.stat().st_size - 100)), "GGUFError", ("truncated", "again")
    ),
    "another magic": Mistake(in_header(lambda k: k.bytes_changed(0, b"GGML")), "GGUFError", ("not GGUF",)),
    "another version": Mistake(
        in_header(lambda k: k.bytes_changed(4, struct.pack("<I", 99))), "GGUFError", ("version 99",)
    ),
    "2^60 tensors": Mistake(
        in_header(lambda k: k.bytes_changed(8, struct.pack("<Q", 2**60))), "GGUFError", (str(2**60),)
    ),
    "2^60 keys": Mistake(
        in_header(lambda k: k.bytes_changed(16, struct.pack("<Q", 2**60))), "GGUFError", (str(2**60),)
    ),
    "a tensor beyond the end": Mistake(
        in_header(lambda k: k.bytes_changed(offset_of(k, Q), struct.pack("<Q", 2**40))), "GGUFError", (Q,)
    ),
    "a tensor at no multiple of the alignment": Mistake(
        in_header(lambda k: k.bytes_changed(offset_of(k, Q), struct.pack("<Q", 33))), "GGUFError", (Q,)
    ),
    "two tensors in one place": Mistake(
        in_header(overlapping), "GGUFError", ("blk.0.attn_k.weight", "overlap")
    ),
    "two tensors of one name": Mistake(in_header(duplicated), "GGUFError", (Q, "twice")),
    "a tensor of an unknown type": Mistake(
        in_header(lambda k: k.bytes_changed(offset_of(k, Q) - 4, struct.pack("<I", 999))),
        "GGUFError",
        (Q, "999"),
    ),
    "a tensor with an absurd shape": Mistake(
        in_header(lambda k: k.bytes_changed(k.tensor_info(Q) + 4, struct.pack("<Q", 2**62))),
        "GGUFError",
        (Q,),
    ),
    "one part of a split model": Mistake(
        lonely_part, "GGUFError", ("builtin-00002-of-00003.gguf is missing", "all 3 splits")
    ),
    "another than the first part": Mistake(
        second_part, "GGUFError", ("split 2 of 3", "open", "builtin-00001-of-00003.gguf")
    ),
    "no architecture": Mistake(
        lambda k: (
            *("build", k.rewritten({"general.architecture": None}), "-o", "out.gguf", "-r"),
            k.file("r.yaml", "mqnative: recipe/1\nbase: Q4_K\n"),
        ),
        "GGUFError",
        ("no general.architecture", "give a model"),
    ),
    "an importance matrix as the model": Mistake(
        lambda k: k.build(k.imatrix()),
        "GGUFError",
        ("no general.architecture", "give a model"),
    ),
    "an unknown architecture": Mistake(
        lambda k: k.eval(k.rewritten({"general.architecture": MetaValue.string("parrot")})),
        "ModelLoadError",
        ("parrot",),
    ),
    "a missing tensor": Mistake(lambda k: k.eval(k.rewritten(left_out=Q)), "ModelLoadError", (Q,)),
    "a missing hyperparameter": Mistake(
        lambda k: k.collect(k.rewritten({"llama.context_length": None})),
        "ModelLoadError",
        ("llama.context_length",),
    ),
    "no tokenizer": Mistake(
        lambda k: k.eval(without_tokenizer(k)),
        "BackendError",
        ("tokenizer",),
    ),
    "a matrix of doubles": Mistake(
        lambda k: k.eval(k.rewritten(types={Q: "F64"}), None, *TWO_THREADS),
        "UnsupportedTypeError",
        (Q, "F64"),
    ),
    "a matrix in a type for activations": Mistake(
        lambda k: k.collect(k.rewritten(types={Q: "Q8_K"}), None, *TWO_THREADS),
        "UnsupportedTypeError",
        (Q, "Q8_K"),
    ),
    "a quantized norm": Mistake(
        lambda k: k.eval(k.rewritten(types={NORM: "Q8_0"}), None, *TWO_THREADS),
        "UnsupportedTypeError",
        (NORM, "Q8_0"),
    ),
    "an epsilon that is no number": Mistake(
        lambda k: k.eval(
            k.rewritten({"llama.attention.layer_norm_rms_epsilon": MetaValue.f32(float("nan"))})
        ),
        "GGUFError",
        ("layer_norm_rms_epsilon",),
    ),
}

WEIGHTS: dict[str, Mistake] = {
    "NaN among the weights, to be quantized": Mistake(
        lambda k: k.build(k.weight_changed(float("nan"))), "NonFiniteError", (Q, "NaN", "row 3")
    ),
    "an infinity among the weights, to be quantized": Mistake(
        lambda k: k.build(k.weight_changed(float("inf")), "Q4_K_M"), "NonFiniteError", (Q, "infinit", "row 3")
    ),
    "NaN among the weights, to be evaluated": Mistake(
        lambda k: k.eval(k.weight_changed(float("nan"))), "NonFiniteError", ("NaN", "chunk 0")
    ),
    "NaN among the weights, to collect importances with": Mistake(
        lambda k: k.collect(k.weight_changed(float("nan"))), "NonFiniteError", ("NaN", "weight")
    ),
    "NaN in a norm, to be copied": Mistake(
        lambda k: k.build(k.weight_changed(float("nan"), NORM)),
        "NonFiniteError",
        (NORM, "NaN", "damaged"),
    ),
    "a source that is quantized already": Mistake(
        lambda k: k.build(k.rewritten(types={Q: "Q8_0"}), "Q4_K_M"),
        "UnsupportedTypeError",
        (Q, "Q8_0", "--allow-requantize"),
    ),
}

IMATRIX: dict[str, Mistake] = {
    "an imatrix that is not there": Mistake(
        lambda k: k.build(k.dense, "Q8_0", "--imatrix", "nope.dat"), "ImatrixError", ("nope.dat", "give")
    ),
    "an empty imatrix": Mistake(
        lambda k: k.build(k.dense, "Q8_0", "--imatrix", k.file("i.dat", "")), "ImatrixError", ("is empty",)
    ),
    "a model as the imatrix": Mistake(
        lambda k: k.build(k.dense, "Q8_0", "--imatrix", k.dense), "ImatrixError", ("as an imatrix", "give")
    ),
    "an imatrix cut short": Mistake(
        lambda k: k.build(k.dense, "Q8_0", "--imatrix", k.file("i.gguf", k.imatrix().read_bytes()[:-99])),
        "ImatrixError",
        ("i.gguf", "truncated"),
    ),
    "a text as the imatrix": Mistake(
        lambda k: k.build(k.dense, "Q8_0", "--imatrix", k.text), "ImatrixError", (".txt", "imatrix")
    ),
    "NaN in the imatrix": Mistake(
        lambda k: k.build(k.dense, "Q4_K_M", "--imatrix", k.imatrix(value=float("nan"))),
        "ImatrixError",
        (Q, "nan", "again"),
    ),
    "a negative importance": Mistake(
        lambda k: k.build(k.dense, "Q4_K_M", "--imatrix", k.imatrix(value=-1.0)),
        "ImatrixError",
        (Q, "-1", "not negative"),
    ),
    "an imatrix of the wrong length": Mistake(
        lambda k: k.build(k.dense, "Q4_K_M", "--imatrix", k.imatrix(lengths={Q: 128})),
        "ImatrixError",
        (Q, "128", "256", "this very model"),
    ),
    "a required row missing": Mistake(
        lambda k: k.build(k.dense, "IQ2_XXS", "--imatrix", k.imatrix(left_out=Q)),
        "ImatrixError",
        (Q, "IQ2_XXS", "give an imatrix that covers"),
    ),
    "no imatrix where one is required": Mistake(
        lambda k: k.build(k.dense, "IQ1_S"), "ImatrixError", ("no imatrix", "give an imatrix")
    ),
}

TEXT: dict[str, Mistake] = {
    "a text that is not there": Mistake(
        lambda k: k.eval(k.dense, "nope.txt"), "TextError", ("nope.txt", "give the path of a text")
    ),
    "a folder as the text": Mistake(
        lambda k: k.collect(k.dense, k.folder), "TextError", ("directory", "give the path of a text")
    ),
    "an empty text": Mistake(
        lambda k: k.eval(k.dense, k.file("e.txt", "")), "TextError", ("e.txt is empty", "words")
    ),
    "a text of blanks": Mistake(
        lambda k: k.collect(k.dense, k.file("b.txt", " \n\t\n " * 99)),
        "TextError",
        ("b.txt is empty", "words"),
    ),
    "too short a text": Mistake(
        lambda k: k.eval(k.dense, k.file("s.txt", "In the beginning")),
        "TextError",
        ("s.txt has", "need 32", "longer text or a smaller --ctx"),
    ),
}

RECIPE: dict[str, Mistake] = {
    "a recipe that is not there": Mistake(
        lambda k: ("build", k.dense, "-r", "nope.yaml", "-o", "out.gguf"),
        "RecipeError",
        ("nope.yaml", "give"),
    ),
    "a folder as the recipe": Mistake(
        lambda k: ("build", k.dense, "-r", k.folder, "-o", "out.gguf"), "RecipeError", ("directory", "give")
    ),
    "a text as the recipe": Mistake(
        lambda k: ("build", k.dense, "-r", k.text, "-o", "out.gguf"),
        "RecipeError",
        ("text.txt, line", "YAML"),
    ),
    "a model as the recipe": Mistake(
        lambda k: ("build", k.dense, "-r", k.dense, "-o", "out.gguf"), "RecipeError", ("recipe",)
    ),
    "another version": Mistake(
        lambda k: ("build", k.dense, "-r", k.file("r.yaml", "mqnative: recipe/9\n"), "-o", "out.gguf"),
        "RecipeError",
        ("recipe/9", "recipe/1", "line 1"),
    ),
    "an unknown type": Mistake(
        lambda k: k.recipe("base: Q4_KK\n"), "RecipeError", ("recipe.yaml, line 2", "'Q4_KK'", "did you mean")
    ),
    "a preset as a type": Mistake(
        lambda k: k.recipe("base: Q4_K_M\n"), "RecipeError", ("Q4_K_M", "mixes for a whole file", "Q4_K?")
    ),
    "a type that ggml cannot write": Mistake(
        lambda k: k.recipe("base: Q8_1\n"), "RecipeError", ("Q8_1", "no tensor can be stored")
    ),
    "an absent tensor": Mistake(
        lambda k: k.recipe("base: Q4_K\ntensors:\n  blk.0.attn_w.weight: Q6_K\n"),
        "RecipeError",
        ("recipe.yaml, line 4", "'blk.0.attn_w.weight'", "the nearest is"),
    ),
    "a norm": Mistake(
        lambda k: k.recipe(f"base: Q4_K\ntensors: {{{NORM}: Q8_0}}\n"),
        "RecipeError",
        (NORM, "never changes", "remove the entry"),
    ),
    "a router": Mistake(
        lambda k: (
            *("build", k.models.moe, "-o", "out.gguf", "-r"),
            k.file("r.yaml", f"mqnative: recipe/1\nbase: Q4_K\ntensors: {{{ROUTER}: Q8_0}}\n"),
        ),
        "RecipeError",
        (ROUTER, "never changes", "remove the entry"),
    ),
    "a rule that matches nothing": Mistake(
        lambda k: k.recipe("base: Q4_K\nrules:\n- {match: 'blk.9.*', type: Q6_K}\n"),
        "RecipeError",
        ("line 4", "'blk.9.*'", "matches no tensor"),
    ),
    "a rule for a part of the name": Mistake(
        lambda k: k.recipe("base: Q4_K\nrules:\n- {match: attn_v, type: Q6_K}\n"),
        "RecipeError",
        ("'attn_v'", "must fit the whole name", ".*"),
    ),
    "a rule for norms only": Mistake(
        lambda k: k.recipe("base: Q4_K\nrules:\n- {match: '.*_norm.weight', type: F16}\n"),
        "RecipeError",
        ("_norm", "never changes", "remove it"),
    ),
    "a pattern that is none": Mistake(
        lambda k: k.recipe("base: Q4_K\nrules:\n- {match: 'blk.(', type: F16}\n"),
        "RecipeError",
        ("line 4", "'blk.('", "not a regular expression"),
    ),
    "a tensor without a type": Mistake(
        lambda k: k.recipe("rules:\n- {match: 'blk.*weight', type: Q6_K}\n"),
        "RecipeError",
        ("token_embd.weight", "base type"),
    ),
    "the same key twice": Mistake(
        lambda k: k.recipe("base: Q4_K\nbase: Q6_K\n"), "RecipeError", ("line 3", "base", "twice")
    ),
    "an unknown key": Mistake(
        lambda k: k.recipe("bsae: Q4_K\n"), "RecipeError", ("line 2", "'bsae'", "did you mean 'base'?")
    ),
    "broken YAML": Mistake(lambda k: k.recipe("base: [\n"), "RecipeError", ("recipe.yaml, line",)),
    "broken JSON": Mistake(
        lambda k: ("build", k.dense, "-r", k.file("r.json", '{"mqnative": '), "-o", "out.gguf"),
        "RecipeError",
        ("r.json",),
    ),
    "a tensor-type file that is none": Mistake(
        lambda k: ("build", k.dense, "--tensor-type-file", k.file("t.txt", "attn_v\n"), "-o", "out.gguf"),
        "RecipeError",
        ("t.txt, line 1", "'attn_v'", "pattern=type"),
    ),
    "an unknown base": Mistake(
        lambda k: (
            *("build", k.dense, "--tensor-type-file", k.file("t.txt", "attn_v=q6_k\n")),
            *("--base", "Q4", "-o", "out.gguf"),
        ),
        "RecipeError",
        ("'Q4'", "did you mean"),
    ),
    "an unknown preset": Mistake(
        lambda k: k.build(k.dense, "Q4_K_X"), "UnsupportedTypeError", ("'Q4_K_X'", "known presets", "Q4_K_M")
    ),
    "a type that the rows cannot hold": Mistake(
        lambda k: (
            *("build", k.models.odd_rows, "-o", "out.gguf", "-r"),
            k.file("r.yaml", "mqnative: recipe/1\nbase: NVFP4\n"),
        ),
        "UnsupportedTypeError",
        ("blk.0.ffn_down.weight", "NVFP4", "352", "choose another type"),
    ),
}

OTHER: dict[str, Mistake] = {
    "a reference that is not there": Mistake(
        lambda k: k.eval(k.dense, None, "--reference", "nope.gguf"), "GGUFError", ("nope.gguf",)
    ),
    "a reference with another vocabulary": Mistake(
        lambda k: k.eval(k.dense, None, "--reference", other_vocabulary(k)),
        "ShapeError",
        ("vocabulary", "4096", "4000", "same tokenizer"),
    ),
    "a reference with other words": Mistake(
        lambda k: k.eval(k.dense, None, "--reference", other_words(k)),
        "MQNativeError",
        ("same tokenizer",),
    ),
    "an unknown device": Mistake(
        lambda k: k.eval(k.dense, None, "--device", "cuda9"), "BackendError", ("cuda9", "CPU")
    ),
}

OUTPUT: dict[str, Mistake] = {
    "an existing output of a build": Mistake(
        lambda k: (exists(k), k.build(k.dense))[1], "OutputExistsError", ("out.gguf", "--force"), USAGE
    ),
    "an existing output of an imatrix": Mistake(
        lambda k: (exists(k), k.collect(k.dense))[1], "OutputExistsError", ("out.gguf", "--force"), USAGE
    ),
    "a build into a folder that is not there": Mistake(
        lambda k: ("build", k.dense, "--preset", "Q8_0", "-o", "no/out.gguf"),
        "OutputError",
        ("no/out.gguf", "folder does not exist", "create it"),
    ),
    "an imatrix into a folder that is not there": Mistake(
        lambda k: (*k.collect(k.dense)[:-1], "no/out.gguf"),
        "OutputError",
        ("no/out.gguf", "folder does not exist", "create it"),
    ),
    "a build onto a folder": Mistake(
        lambda k: ("build", k.dense, "--preset", "Q8_0", "-o", k.folder, "--force"),
        "OutputError",
        ("a folder has that name",),
    ),
    "an imatrix onto a folder": Mistake(
        lambda k: (*k.collect(k.dense)[:-1], k.folder),
        "OutputError",
        ("a folder has that name",),
    ),
    "an imatrix without a name": Mistake(
        lambda k: (*k.collect(k.dense)[:-1], ""),
        "OutputError",
        ("name",),
    ),
    "a build onto its own source": Mistake(
        lambda k: (*k.build(exists(k)), "--force"),
        "OutputError",
        ("out.gguf", "source"),
    ),
    "an imatrix onto its own model": Mistake(
        lambda k: (*k.collect(exists(k)), "--force"),
        "OutputError",
        ("out.gguf", "model"),
    ),
}


def without_tokenizer(kit: Kit) -> Path:
    with GGUFFile.open(kit.dense) as file:
        keys = [key for key in file.metadata if key.startswith("tokenizer.")]
    return kit.rewritten(
        {
            **dict.fromkeys(keys),
            "tokenizer.ggml.model": MetaValue.string("none"),
            "llama.vocab_size": MetaValue.u32(4096),
        }
    )


def exists(kit: Kit) -> Path:
    return kit.file("out.gguf", kit.dense.read_bytes())


def other_vocabulary(kit: Kit) -> Path:
    """The same model with fewer words."""
    path = kit.folder / "fewer.gguf"
    n_words = 4000
    with GGUFFile.open(kit.dense) as file:
        keys = dict(file.metadata)
        for key in ("tokens", "scores", "token_type"):
            value = keys[f"tokenizer.ggml.{key}"]
            assert value.element_type is not None
            keys[f"tokenizer.ggml.{key}"] = MetaValue.array(value.element_type, value.plain[:n_words])
        head = "token_embd.weight"
        order = [
            (name, (t.shape[0], n_words) if name == head else t.shape, t.qtype)
            for name, t in file.tensors.items()
        ]
        write_gguf(
            path,
            GGUFLayout.plan(keys, order),
            lambda slot, out: out.write(file.data(slot.name)[: slot.size_bytes]) and None,
        )
    return path


def other_words(kit: Kit) -> Path:
    """The same model whose words stand for other tokens."""
    with GGUFFile.open(kit.dense) as file:
        words = file.get("tokenizer.ggml.tokens")
    moved = words[:1000] + words[1000:][::-1]
    return kit.rewritten({"tokenizer.ggml.tokens": MetaValue.array(MetaType.STRING, moved)})


MISTAKES = {
    f"{group}: {name}": mistake
    for group, mistakes in {
        "gguf": GGUF,
        "weights": WEIGHTS,
        "imatrix": IMATRIX,
        "text": TEXT,
        "recipe": RECIPE,
        "other": OTHER,
        "output": OUTPUT,
    }.items()
    for name, mistake in mistakes.items()
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, calib_text: str) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(calib_text[:2000], encoding="utf-8")
    return path


@pytest.fixture
def kit(tmp_path: Path, tiny_models: TinyModels, text: Path) -> Kit:
    return Kit(tmp_path, tiny_models, text)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_in_one_sentence(name: str, kit: Kit) -> None:
    mistake = MISTAKES[name]
    arguments = mistake.command(kit)
    before = contents(kit.folder)
    done = mqnative(*arguments, "--json", cwd=kit.folder)
    assert contents(kit.folder) == before
    assert done.code == mistake.code, done.err
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    for words in mistake.says:
        assert words in lines[0]
    told = done.json
    assert f"error: {told['message']}" == lines[0]
    if mistake.error != "MQNativeError":
        assert told["error"] == mistake.error


def test_without_json_standard_output_stays_empty(kit: Kit) -> None:
    done = mqnative("inspect", "nope.gguf", cwd=kit.folder)
    assert (done.code, done.out) == (FAILED, "")
    assert done.err == "error: nope.gguf does not exist, check the spelling\n"


@pytest.mark.parametrize(
    "arguments", [("inspect",), ("eval", "m", "-f", "t", "--ctx", 3), ("build", "m")], ids=str
)
def test_wrong_usage_is_told_in_json_too(arguments: tuple[object, ...], kit: Kit) -> None:
    done = mqnative(*arguments, "--json", cwd=kit.folder)
    assert done.code == USAGE
    assert done.json["message"] in done.err


# ---- Places that cannot be written ------------------------------------------------------------------

# Runs the command with a limit on the size of files, at which writing fails as on a full disk. An editable
# install looks for changed sources when the module is loaded, which comes first.
LIMITED = """
import resource, sys
from mqnative.app.cli import main
from mqnative.core.native import core
core()
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("room", [0, 100, 500_000])
@pytest.mark.parametrize("command", ["build", "imatrix"])
def test_a_full_disk_leaves_nothing(command: str, room: int, kit: Kit) -> None:
    """At the first byte, within the header, and within the tensors."""
    arguments = kit.build(kit.dense) if command == "build" else kit.collect(kit.dense)
    if command == "imatrix":
        room = room // 20  # its file is smaller
    limited = [sys.executable, "-c", LIMITED, str(room)]
    done = mqnative(*arguments, "--json", cwd=kit.folder, command=limited)
    assert contents(kit.folder) == {}
    assert done.code == FAILED
    assert done.err.splitlines() == [f"error: {done.json['message']}"]
    assert done.json["error"] == "OutputError"
    assert "out.gguf" in done.err
    assert "choose another disk" in done.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", ["build", "imatrix"])
def test_a_read_only_folder_is_refused_before_the_work(command: str, kit: Kit) -> None:
    arguments = kit.build(kit.dense) if command == "build" else kit.collect(kit.dense)
    kit.folder.chmod(0o500)
    try:
        done = mqnative(*arguments, cwd=kit.folder)
    finally:
        kit.folder.chmod(0o700)
    assert done.code == FAILED
    assert "permission denied, choose a folder you may write to" in done.err
    assert contents(kit.folder) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--tensors"])
def test_standard_output_on_a_full_disk_is_an_error_in_one_sentence(option: str, kit: Kit) -> None:
    shell = ["/bin/sh", "-c", 'exec "$0" "$@" > /dev/full', *COMMAND]
    done = mqnative("inspect", kit.dense, option, command=shell)
    assert done.code == FAILED
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("error: ")
