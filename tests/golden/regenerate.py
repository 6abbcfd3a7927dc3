"""Rewrites quantized_bytes.json with what llama.cpp's own llama-quantize makes of the golden tensors.

    python tests/golden/regenerate.py FOLDER_WITH_LLAMA_QUANTIZE

Build the tools with `cmake -DMQNATIVE_UPSTREAM_TOOLS=ON` from the pinned tree. Run this when the pin moves,
and review the difference: every changed line is a change of upstream's bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from golden_inputs import (  # noqa: E402, after the path is set
    SEED,
    SHAPES,
    golden_imatrix,
    golden_tensors,
    sha256,
    write_golden_imatrix,
    write_golden_model,
)
from mqnative.formats.gguf import GGUFFile  # noqa: E402
from mqnative.formats.qtypes import QType, all_types  # noqa: E402

OUTPUT = HERE / "quantized_bytes.json"
PIN = HERE.parent.parent / "third_party" / "llama.cpp.pin"
# llama-quantize will not write these without an imatrix (llama-quant.cpp, tensor_requires_imatrix).
NEEDS_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}


def command(tools: Path, model: Path, imatrix: Path | None, target: QType, out: Path) -> list[str]:
    # The preset must be a quantized one of another type, or --tensor-type is not looked at.
    preset = "Q4_0" if target.name == "Q8_0" else "Q8_0"
    given = ["--imatrix", str(imatrix)] if imatrix else []
    override = ["--tensor-type", f".*={target.name.lower()}"]
    return [
        str(tools / "llama-quantize"), "--pure", *given, *override, str(model), str(out), preset, "1"
    ]  # fmt: skip


def hashes(tools: Path, folder: Path, target: QType, imatrix: Path | None) -> dict[str, str]:
    out = folder / "out.gguf"
    call = command(tools, folder / "model.gguf", imatrix, target, out)
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} failed:\n{done.stderr[-2000:]}")
    with GGUFFile.open(out) as file:
        wrong = [n for n in SHAPES if file.tensors[n].qtype != target]
        if wrong:
            raise SystemExit(f"llama-quantize did not write {wrong} as {target.name}")
        return {name: sha256(file.data(name)) for name in SHAPES}


def main(tools: Path) -> None:
    pins = dict(line.split(" = ") for line in PIN.read_text().splitlines() if " = " in line)
    targets = [t for t in all_types().values() if t.is_target]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_golden_model(folder / "model.gguf")
        imatrix = write_golden_imatrix(folder / "imatrix.gguf")
        with_imatrix = {t.name: hashes(tools, folder, t, imatrix) for t in targets}
        without = {t.name: hashes(tools, folder, t, None) for t in targets if t.name not in NEEDS_IMATRIX}
        example = command(Path(), Path("model.gguf"), Path("imatrix.gguf"), targets[2], Path("out.gguf"))
    document = {
        "upstream_commit": pins["commit"],
        "command": " ".join(example),
        "seed": SEED,
        "shapes": {name: list(shape) for name, (shape, _) in SHAPES.items()},
        "sources": {name: sha256(weights) for name, weights in golden_tensors().items()},
        "importances": {name: sha256(values) for name, values in golden_imatrix().items()},
        "with_imatrix": with_imatrix,
        "without_imatrix": without,
    }
    OUTPUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
