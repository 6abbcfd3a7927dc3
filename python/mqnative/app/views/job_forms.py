"""The forms that start work: their fields, and the command line that they make.

A form makes exactly the command that a person could type, so that page and terminal mean the same job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mqnative import builtin
from mqnative.errors import ConstraintError

FieldKind = Literal["text", "number", "file", "output", "types", "flag"]


@dataclass(frozen=True)
class Field:
    """One entry of a form.

    Attributes:
        option: as on the command line; empty for an argument.
        label: what people read.
        kind: what it takes: ``file`` is read, ``output`` is written.
        default: what stands there at first.
        required: whether it may be left empty.
        hint: an example.
        many: whether it takes several, with commas between.
    """

    option: str
    label: str
    kind: FieldKind
    default: str = ""
    required: bool = False
    hint: str = ""
    many: bool = False


@dataclass(frozen=True)
class Form:
    """What one kind of work needs.

    Attributes:
        kind: the command.
        title: what it does, for people.
        text: what comes of it.
        fields: its entries.
        has_model: whether the model is the command's first argument.
    """

    kind: str
    title: str
    text: str
    fields: tuple[Field, ...]
    has_model: bool = True


_BPW = Field("--bpw", "Bits per weight", "number", hint="4.5")
_SIZE = Field("--size", "or size of the file", "text", hint="2.4GiB")
_TEXT = Field("-f", "Text", "file", required=True, hint="calibration.txt")
_IMATRIX = Field("--imatrix", "Importance matrix", "file", hint="imatrix.gguf")
_TYPES = Field("--types", "Types allowed (none: all)", "types")
_CTX = Field("--ctx", "Tokens per chunk", "number", "512")
_FAST = Field("--fast", "Fast: probe nothing", "flag")

FORMS: dict[str, Form] = {
    form.kind: form
    for form in (
        Form(
            "auto",
            "Whole job",
            "Measures the model, solves for the best mix, builds it and verifies it against the presets. "
            "Without a size it takes the frontier's knee and says why.",
            (
                _BPW,
                _SIZE,
                Field("--calib", "Calibration text", "file", required=True),
                Field("--eval", "Held-out text (none: a part of it)", "file"),
                Field("-o", "Folder for the results", "output", required=True),
                _TYPES,
                _FAST,
                Field("--gptq", "Round with error feedback (GPTQ)", "flag"),
                Field("--probe-chunks", "Chunks for each probe, at most", "number", "16"),
                Field("--refine", "Rounds of refinement, at most", "number", "2"),
                Field("--verify-chunks", "Held-out chunks (none: as many as it takes)", "number"),
                _CTX,
            ),
        ),
        Form(
            "imatrix",
            "Importance matrix",
            "Runs the model over a text and keeps what its weights see.",
            (_TEXT, Field("-o", "File to write", "output", required=True, hint="imatrix.gguf"), _CTX),
        ),
        Form(
            "sweep",
            "Weight errors",
            "Measures the error of every tensor at every type, from a sample of rows.",
            (_IMATRIX, _TYPES),
        ),
        Form(
            "probe",
            "Probes",
            "Quantizes one tensor at a time in the loaded model and measures the KL divergence.",
            (
                _TEXT,
                _IMATRIX,
                Field("--types", "Types to probe at", "text", "Q3_K", hint="Q3_K,Q8_0"),
                Field("--chunks", "Chunks of text", "number", "8"),
                _CTX,
            ),
        ),
        Form(
            "solve",
            "Recipe",
            "Measures what is missing and writes the best recipe for a budget.",
            (_TEXT, _BPW, _SIZE, _FAST, Field("-o", "Recipe to write", "output", hint="recipe.yaml")),
        ),
        Form(
            "build",
            "Build",
            "Writes the GGUF that a recipe or a preset describes.",
            (
                Field("-r", "Recipe", "file", hint="recipe.yaml"),
                Field("--preset", "or preset", "text", hint="Q4_K_M"),
                _IMATRIX,
                Field(
                    "--gptq",
                    "Text for error feedback (none: rounded as ever)",
                    "file",
                    hint="calibration.txt",
                ),
                Field("-o", "File to write", "output", required=True, hint="model.gguf"),
            ),
        ),
        Form(
            "compare",
            "Verify and compare",
            "Runs files over the same text: KLD, PPL, top-1, paired with the original.",
            (
                Field("", "Files to compare", "file", required=True, hint="a.gguf, b.gguf", many=True),
                Field("-f", "Texts", "file", required=True, hint="prose.txt, code.txt", many=True),
                Field("--chunks", "Chunks (none: all)", "number"),
                Field("-o", "Folder for the report", "output", required=True),
            ),
        ),
        Form(
            "hybrids",
            "Hybrids",
            "Judges presets, others' mixes and hybrids together, and publishes the files worth their size.",
            (
                Field("--calib", "Calibration text", "file", required=True),
                Field("--eval", "Held-out text (none: a part of it)", "file"),
                Field("-o", "Folder for the results", "output", required=True),
                Field("--presets", "Presets as baselines (none: 20)", "text", hint="Q8_0,Q6_K,Q4_K_M"),
                Field("--external", "Others' files as baselines", "file", hint="a.gguf, b.gguf", many=True),
                Field("--collapse", "Files to publish, at most", "number"),
                Field("--max-bytes", "Largest file", "text", hint="8GiB"),
                _TYPES,
                Field("--probe-chunks", "Chunks for each probe, at most", "number", "16"),
                Field("--select-chunks", "Chunks that mixes are judged on, at most", "number", "16"),
                Field("--refine", "Rounds of refinement, at most", "number", "1"),
                Field("--verify-chunks", "Held-out chunks (none: as many as it takes)", "number"),
                _CTX,
            ),
        ),
    )
}


def defaults(kind: str, model: Path, home: Path) -> dict[str, str]:
    """What stands in a form at first: defaults, a place for the results, texts for the built-in model.

    Args:
        kind: of the form.
        model: the model's file.
        home: where results go that nobody named a place for.
    """
    found = {field.label: field.default for field in FORMS[kind].fields}
    stem = model.stem or "model"
    for field in FORMS[kind].fields:
        if field.kind == "output":
            found[field.label] = str(home / "runs" / _place(kind, stem))
    if model == builtin.MODEL.resolve():
        texts = {"Text": builtin.CALIB_TEXT, "Calibration text": builtin.CALIB_TEXT}
        texts |= {"Texts": builtin.EVAL_TEXT, "Held-out text (none: a part of it)": builtin.EVAL_TEXT}
        found |= {label: str(path) for label, path in texts.items() if label in found}
    if "Bits per weight" in found:
        found["Bits per weight"] = "4.5"
    return found


def _place(kind: str, stem: str) -> str:
    names = {"imatrix": f"{stem}.imatrix.gguf", "solve": f"{stem}.recipe.yaml", "build": f"{stem}-mix.gguf"}
    return names.get(kind, f"{stem}-{kind}")


def arguments(kind: str, model: str, values: Mapping[str, Any]) -> list[str]:
    """The command line of a form, without ``mqnative``.

    Args:
        kind: of the form.
        model: path of the model.
        values: label -> what was filled in; paths are checked already, several stand on a line each.

    Raises:
        ConstraintError: something is missing or no number.
    """
    form = FORMS[kind]
    options: list[str] = []
    words: list[str] = []
    for field in form.fields:
        value = values.get(field.label)
        if field.kind == "flag":
            options += [field.option] if value else []
            continue
        if isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        text = "" if value is None else str(value).strip()
        if not text:
            if field.required:
                raise ConstraintError(f"{field.label}: fill this in", constraint=field.label)
            continue
        if field.kind == "number":
            text = _number(field, text)
        if field.option and field.many:
            for part in text.split("\n"):
                options += _option(field.option, part)
        elif field.option:
            options += _option(field.option, text)
        else:
            words += text.split("\n")
    if values.get(_BPW.label) and values.get(_SIZE.label):
        raise ConstraintError(
            "give bits per weight or a size, not both; empty one of them", constraint=_SIZE.label
        )
    if kind == "build" and not (values.get("Recipe") or values.get("or preset")):
        raise ConstraintError("name a recipe or a preset", constraint="Recipe")
    return [kind, *options, "--", *([model] if form.has_model else []), *words]


def _option(option: str, value: str) -> list[str]:
    # With "=", a value that begins with a dash is no option.
    return [f"{option}={value}"] if option.startswith("--") else [option, value]


def _number(field: Field, text: str) -> str:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e12:
        raise ConstraintError(
            f"{field.label}: {text!r} is no number; write one such as {field.hint or field.default or '8'}",
            constraint=field.label,
        )
    return str(int(number)) if number == int(number) else repr(number)
