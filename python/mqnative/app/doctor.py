"""``mqnative doctor``: what this build and this machine can do."""

from __future__ import annotations

from typing import Any

import click

from mqnative.app.options import json_option


@click.command(
    short_help="Show what this build and this machine can do.",
    epilog="Example: mqnative doctor --json",
)
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, the llama.cpp commit, compiler flags, processor features and devices."""
    from mqnative.app.output import console, facts_table, print_json
    from mqnative.core.info import build_info

    info = build_info()
    if as_json:
        print_json(info)
        return
    out = console()
    out.print(facts_table("build", _build_facts(info)))
    out.print()
    for device in info["devices"]:
        out.print(facts_table(f"device {device['name']}", _device_facts(device)))
    for backend in info["backends"]:
        if not backend["n_devices"]:
            out.print(
                f"\nThis build has {backend['name']}, but this machine no device for it: "
                f"{backend['trouble']}.\nEverything works on the processor."
            )
    if info["cpu_unused"]:
        out.print(
            f"\nThis processor also has {', '.join(info['cpu_unused'])}, "
            "which this portable build does not use.\n"
            "A build tuned for this machine: pip install . -C cmake.define.GGML_NATIVE=ON"
        )


def _build_facts(info: dict[str, Any]) -> dict[str, object]:
    return {
        "mqnative": info["version"],
        "llama.cpp": f"{info['upstream_commit']} ({info['llama_cpp_version']}), ggml {info['ggml_version']}",
        "compiler": f"{info['compiler']}, {info['build_type']}",
        "ISA": " ".join(info["isa"]),
        "CUDA": info["cuda"] or "not in this build",
        "features": info["features"],
        "python": f"{info['python']} on {info['platform']}",
        "threads": info["n_threads"],
    }


def _device_facts(device: dict[str, Any]) -> dict[str, object]:
    from mqnative.app.output import size_text

    free, total = size_text(device["memory_free_bytes"]), size_text(device["memory_total_bytes"])
    return {
        "what": f"{device['description']} ({device['kind']})",
        "memory": f"{free} free of {total}",
        "multiplies": " ".join(device["matmul_types"]),
    }
