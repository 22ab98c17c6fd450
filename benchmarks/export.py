"""Memory and time of `pretrain export` and `pretrain import` of a model of a billion parameters.

    python benchmarks/export.py [--quick]

The model is a Llama in fp32 with random weights, written on the fly as a checkpoint of ours. Each command is
a process of its own, which has converted a tiny model before, looked at every 5 ms: what it adds to memory,
apart from pages of files that are mapped, which the kernel takes back as it likes. The bound: twice the
largest shard.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from measure import Report, Table, Target, main

MILLION = 1_000_000
SHARD_MB = 1000
FULL = {"num_layers": 20, "hidden_size": 2048, "num_attention_heads": 16, "ffn_hidden_size": 5632}
SMALL = {"num_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "ffn_hidden_size": 512}
TINY = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
VOCABULARY = 32_000


def memory(kind: str) -> int:
    """Bytes of this process: RssAnon, or RssFile for pages of mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(kind)


class Peak(threading.Thread):
    """Looks at the memory while something runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.mapped_before = memory("RssAnon"), memory("RssFile")
        self.most, self.mapped = self.before, self.mapped_before
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.most = max(self.most, memory("RssAnon"))
            self.mapped = max(self.mapped, memory("RssFile"))


def work(what: str, source: str, target: str, shard_mb: int) -> None:
    """One command in this process, after its imports; prints what it took."""

    from pretrain.hf.exporter import export_command
    from pretrain.hf.importer import import_command

    def act(source: str, target: str) -> None:
        if what == "export":
            export_command(source, target, shard_mb * MILLION, tokenizer=False)
        else:
            import_command(source, target)

    act(f"{source}-tiny", f"{target}-tiny")  # imports whatever there is to import
    peak = Peak()
    peak.start()
    began = time.perf_counter()
    act(source, target)
    seconds = time.perf_counter() - began
    peak.over.set()
    peak.join()
    found = {"added": peak.most - peak.before, "mapped": peak.mapped - peak.mapped_before, "seconds": seconds}
    print(json.dumps(found), flush=True)


def write_checkpoint(run: Path, model: dict[str, int]) -> int:
    """A run with random weights; its number of parameters."""
    from pretrain.checkpoint.tensors import TensorSource
    from pretrain.config.derived import count_parameters
    from pretrain.config.sections import GptConfig
    from pretrain.hf.new_run import write_run
    from pretrain.hf.registry import architecture_of

    config = GptConfig.model_validate(
        {
            "run": {"dir": str(run), "steps": 1},
            "model": {
                "kind": "gpt",
                "position_embedding": "rotary",
                "normalization": "rmsnorm",
                "activation": "swiglu",
                "bias": False,
                **model,
            },
            "batch": {"global_size": 1, "sequence_length": 2048},
            "optimizer": {"lr": 1e-4},
            "data": {"train": "none"},
        }
    )

    def random(shape: tuple[int, ...]) -> Any:
        return lambda: torch.randn(shape).mul_(0.02)

    sources = []
    for link in architecture_of(config).links(config, VOCABULARY):
        with torch.device("meta"):
            shape = tuple(link.join([torch.empty(each) for each in link.shapes]).shape)
        sources.append(TensorSource(link.key, shape, torch.float32, random(shape)))
    run.mkdir()
    write_run(run, "nowhere", config, VOCABULARY, sources, None)
    return count_parameters(config, VOCABULARY).total


def measure(quick: bool) -> Report:
    """Write the checkpoint, export it, import the export."""
    shard_mb = 10 if quick else SHARD_MB
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "run-tiny", TINY)
        parameters = write_checkpoint(folder / "run", SMALL if quick else FULL)
        rows, found = [], {}
        for what, source, target in (("export", "run", "out"), ("import", "out", "back")):
            command = [sys.executable, __file__, what, str(folder / source), str(folder / target)]
            done = subprocess.run([*command, str(shard_mb)], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            found[what] = json.loads(done.stdout.splitlines()[-1])
        shards = [path.stat().st_size for path in (folder / "out").glob("*.safetensors")]
        size = sum(shards)
    for what, numbers in found.items():
        added, mapped = numbers["added"] / MILLION, numbers["mapped"] / MILLION
        seconds = numbers["seconds"]
        rows.append(
            (
                what,
                f"{added:,.0f} MB",
                f"{mapped:,.0f} MB",
                f"{seconds:.0f} s",
                f"{size / MILLION / seconds:,.0f} MB/s",
            )
        )
    question = (
        f"A Llama of {parameters:,} parameters, {size / MILLION:,.0f} MB in {len(shards)} files of at most "
        f"{max(shards) / MILLION:,.0f} MB; verified, converted and proven by its logits."
    )
    bound = 2 * max(shards) / MILLION
    targets = [
        Target(f"{what}: MB added", n["added"] / MILLION, bound, at_least=False) for what, n in found.items()
    ]
    header = ("command", "added memory", "mapped pages at most", "time", "rate")
    return Report("export", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    if len(sys.argv) == 5:
        work(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(measure, __doc__)
