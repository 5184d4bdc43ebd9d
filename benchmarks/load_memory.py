"""How much host memory loading takes beyond the weights, as a multiple of the largest shard.

    python benchmarks/load_memory.py [--gigabytes 2.2] [--out FILE]

Writes a random bf16 checkpoint in the published layout into a temporary directory (one tensor in
memory at a time), loads it in a fresh process for each target dtype, and prints one JSON object.
Linux only: the peak is the kernel's own (VmHWM), so nothing falls between two samples.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from skipstone.models import table
from skipstone.models.checkpoint import load_network
from skipstone.models.config import read_config
from skipstone.models.folder import INDEX
from skipstone.outputs import write_whole

BAR = 1.2
NUM_SHARDS = 6
DTYPES = ("bfloat16", "float32")
WIDTH, MLP_WIDTH, VOCAB = 2048, 6144, 32768
COUNTED = (
    "peak resident memory of the loading process (VmHWM: anonymous memory, and pages of mapped "
    "shards while they are resident), minus its resident memory just before the load (VmRSS, after "
    "imports), minus the bytes of the weights in the target dtype; the page cache of the system is "
    "not counted"
)

Shapes = dict[str, tuple[int, ...]]


def write_checkpoint(directory: Path, gigabytes: float) -> tuple[int, int]:
    """Write config and shards; returns the bytes of all tensors and of the largest shard."""
    fields = _config_fields(gigabytes)
    (directory / "config.json").write_text(json.dumps(fields))
    config = read_config(directory)
    shapes = table.entry_of(config).shapes(config)
    parts = _parts(shapes)
    weight_map = dict[str, str]()
    for i, part in enumerate(parts):
        name = f"model-{i + 1:05}-of-{len(parts):05}.safetensors"
        _write_shard(directory / name, part)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": _num_bytes(shapes)}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index))
    return _num_bytes(shapes), max(path.stat().st_size for path in directory.glob("*.safetensors"))


def _config_fields(gigabytes: float) -> dict[str, object]:
    layer = 2 * (4 * WIDTH * WIDTH + 3 * WIDTH * MLP_WIDTH)
    ends = 2 * (2 * VOCAB * WIDTH)
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": WIDTH,
        "n_layers": max(1, round((gigabytes * 1e9 - ends) / layer)),
        "n_heads": 16,
        "mlp_hidden_size": MLP_WIDTH,
        "vocab_size": VOCAB,
        "max_sequence_length": 4096,
        "mask_token_id": 0,
        "eos_token_id": 1,
    }


def _num_bytes(shapes: Shapes) -> int:
    return sum(2 * torch.Size(shape).numel() for shape in shapes.values())


def _parts(shapes: Shapes) -> list[Shapes]:
    """Cut the tensors into shards of about the same size, the smallest first.

    Memory peaks at the last shard, when nearly all weights are there already, so the largest shard
    must come last for the worst case.
    """
    limit = _num_bytes(shapes) / NUM_SHARDS
    parts: list[Shapes] = [{}]
    for name, shape in shapes.items():
        if _num_bytes(parts[-1]) >= limit:
            parts.append({})
        parts[-1][name] = shape
    return sorted(parts, key=_num_bytes)


def _write_shard(path: Path, part: Shapes) -> None:
    """Write the safetensors format by hand: header length, header, then tensor by tensor."""
    header = dict[str, object]()
    end = 0
    for name, shape in part.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in part.values():
            values = torch.empty(shape, dtype=torch.bfloat16).normal_(generator=generator)
            values.view(torch.uint8).numpy().tofile(file)


def _status(key: str) -> int:
    """One line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(directory: Path, dtype: str) -> dict[str, int]:
    """Load in this process and compare what the kernel saw before and at the peak."""
    torch.set_num_threads(1)
    config = read_config(directory)
    before = _status("VmRSS")
    # Forget the peak of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    network = load_network(directory, config, getattr(torch, dtype), torch.device("cpu"))
    peak = _status("VmHWM")
    weights = sum(t.numel() * t.element_size() for t in network.published().values())
    return {"before": before, "peak": peak, "weights": weights, "after": _status("VmRSS")}


def _measure_alone(directory: Path, dtype: str, largest: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--measure", str(directory), "--dtype", dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, int] = json.loads(done.stdout)
    beyond = found["peak"] - found["before"] - found["weights"]
    ratio = round(beyond / largest, 3)
    return {"dtype": dtype, **found, "beyond_weights": beyond, "ratio": ratio, "ok": ratio <= BAR}


def report(gigabytes: float) -> dict[str, object]:
    """Generate, load in each dtype, delete."""
    with tempfile.TemporaryDirectory(prefix="skipstone-load-") as folder:
        total, largest = write_checkpoint(Path(folder), gigabytes)
        loads = [_measure_alone(Path(folder), dtype, largest) for dtype in DTYPES]
        shards = len(list(Path(folder).glob("*.safetensors")))
    return {
        "benchmark": "load_memory",
        "command": f"python benchmarks/load_memory.py --gigabytes {gigabytes}",
        "counted": COUNTED,
        "bar": BAR,
        "checkpoint": {"bytes": total, "stored": "bfloat16", "shards": shards, "largest": largest},
        "loads": loads,
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cores": os.cpu_count(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("skipstone", "torch", "safetensors")},
    }


def main() -> None:
    """Print the report; exit 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gigabytes", type=float, default=2.2, help="size of the checkpoint")
    parser.add_argument("--out", type=Path, help="also write the report to this file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.dtype)))
        return
    text = json.dumps(found := report(options.gigabytes), indent=1)
    print(text)
    if options.out is not None:
        write_whole(options.out, text + "\n")
    loads = found["loads"]
    assert isinstance(loads, list)
    sys.exit(0 if all(load["ok"] for load in loads) else 1)


if __name__ == "__main__":
    main()
