"""One rank that says where it listens ({"listening": folder}), or sends pickles ({"evil": file to make})."""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import psutil


def listening(pid: int) -> list[str]:
    """Addresses at which a process, its parent and all their children listen, but for test runners."""
    process = psutil.Process(pid)
    family = {process, *process.children(recursive=True)}
    if "RANK" in os.environ:
        family |= {process.parent(), *process.parent().children(recursive=True)}
    found = []
    for each in family:
        found += [one.laddr.ip for one in each.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return found


class Evil:
    """A pickle that makes a file wherever it is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def send_pickles(path: str) -> None:
    """What torch sends for an object."""
    import torch
    import torch.distributed.distributed_c10d as c10d

    raw = torch.frombuffer(bytearray(pickle.dumps(Evil(path))), dtype=torch.uint8).clone()
    c10d._object_to_tensor = lambda *_: (raw, torch.tensor([raw.numel()]))
    c10d._tensor_to_object = lambda *_: []


def main() -> None:
    asked = json.loads(sys.argv[1])
    from torch.distributed import barrier

    from pretrain.distributed.world import init_distributed

    with init_distributed() as world:
        if "listening" in asked:
            Path(asked["listening"], str(world.rank)).write_text(json.dumps(listening(os.getpid())))
            barrier()
            return
        sys.path.append(str(Path(__file__).parents[1]))
        from config_files import small_config

        from pretrain.gpt.spec import GptSpec
        from pretrain.megatron.optimizer import Optimizer
        from pretrain.megatron.parallel_dims import build_parallel_dims
        from pretrain.megatron.pipeline import PipelineModel

        if world.rank == 1:
            send_pickles(asked["evil"])
        config = small_config(model__num_layers=1)
        layout = build_parallel_dims(world, config.parallel)
        Optimizer(config, PipelineModel(config, layout, 257, GptSpec(config, layout), training=True))
        barrier()


if __name__ == "__main__":
    main()
