"""Images a second and memory of a GAN's step at each ZeRO stage, against a plain DDP loop of the same GAN.

    python benchmarks/gan.py [--quick]

All contenders live in the same processes, one thread each, and take turns. Ours is a whole `GanTrainer.step`:
images in global order, both updates, moving average, verdicts. The other is the loop that a user would write:
a random batch of the same images, DistributedDataParallel around both networks, fused Adam, the same losses
and moving average. Ours lays images out channels last; a second loop does so too, to show what that gives.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from measure import Report, Table, Target, main, ratio, spread, take_turns, timed

SPAWN = (
    "import sys; from pretrain.distributed.spawn import spawn; "
    "sys.exit(spawn(sys.argv[2:], int(sys.argv[1])))"
)
IMAGES = 512
STAGES = (0, 1, 2, 3)
STEPS_A_TURN, WARM_UP = 2, 2
DECAY = 0.999
TARGETS = {1: {0: 1.0, 1: 0.95, 2: 0.95}, 2: {0: 1.0, 1: 0.9, 2: 0.9}}


@dataclass(frozen=True)
class Case:
    """A GAN and its batch."""

    name: str
    architecture: str
    size: int
    channels: int
    batch: int


CASE = Case("DCGAN", "dcgan", size=32, channels=16, batch=64)


def config(case: Case, shards: str, stage: int, precision: str = "fp32") -> Any:
    """Of our run."""
    from pretrain.config.sections import GanConfig

    return GanConfig.model_validate(
        {
            "run": {"dir": "unused", "steps": 1},
            "model": {
                "kind": "gan",
                "architecture": case.architecture,
                "image_size": case.size,
                "generator_channels": case.channels,
                "discriminator_channels": case.channels,
                "max_channels": 1024,
                "batch_norm": True,
                "spectral_norm": True,
                "ema_decay": DECAY,
            },
            "batch": {"global_size": case.batch},
            "parallel": {"generator_stage": stage, "discriminator_stage": stage},
            "optimizer": {"lr": 2e-4},
            "loss": {"kind": "hinge"},
            "data": {"train": shards},
            "precision": precision,
        }
    )


def ddp_step(
    case: Case, shards: str, world: Any, lay_out: Callable[[Any], Any], autocast: bool = False
) -> Callable[[], object]:
    """The plain loop; `lay_out` is given each network, and `autocast` computes in bf16."""
    import torch
    from torch.nn.functional import relu
    from torch.nn.parallel import DistributedDataParallel

    from pretrain.data.images import ImageData
    from pretrain.gan.networks.build import build_discriminator, build_generator, shape_of
    from pretrain.gan.networks.spectral import advance

    settings, device = config(case, shards, 0), world.device
    share, latent_size = case.batch // world.size, settings.model.latent_size
    data = ImageData.open([(shards, 1.0)], 0, case.batch, share)
    shape = shape_of(settings.model, settings.loss, data.channels, data.num_classes)
    networks = [lay_out(build(shape, 0).to(device)) for build in (build_generator, build_discriminator)]
    generator, discriminator = (DistributedDataParallel(each, broadcast_buffers=False) for each in networks)
    adams = [
        torch.optim.Adam(each.parameters(), 2e-4, betas=(0.0, 0.99), fused=True)
        for each in (generator, discriminator)
    ]
    weights = [parameter.detach() for parameter in generator.parameters()]
    averages = [weight.clone() for weight in weights]
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=autocast)

    def noise() -> Any:
        return torch.randn(share, latent_size, device=device)

    def step() -> tuple[float, float]:
        numbers = torch.randint(data.samples_per_epoch, (share,)).tolist()
        real = data.images(numbers).images.to(device).float() / 127.5 - 1
        advance(discriminator.module)
        with bf16:
            with torch.no_grad():
                fake = generator.module(noise())
            answer_real, answer_fake = discriminator(torch.cat([real, fake])).float().chunk(2)
        adams[1].zero_grad()
        loss_d = relu(1 - answer_real).mean() + relu(1 + answer_fake).mean()
        loss_d.backward()
        adams[1].step()
        discriminator.requires_grad_(False)
        adams[0].zero_grad()
        with bf16:
            answer = discriminator.module(generator(noise())).float()
        loss_g = -answer.mean()
        loss_g.backward()
        adams[0].step()
        discriminator.requires_grad_(True)
        torch._foreach_lerp_(averages, weights, 1 - DECAY)
        return loss_d.item(), loss_g.item()

    return step


def held(trainer: Any) -> int:
    """Bytes that a rank keeps between steps for both networks: weights, Adam's states, average."""
    engines = [network.engine for network in (trainer.generator, trainer.discriminator)]
    tensors = [*trainer.ema.tensors]
    for engine in engines:
        tensors += [getattr(parameter, "ds_tensor", parameter).data for _, parameter in engine.parameters]
        for master, states in engine.adam.state.items():
            tensors += [master, states["exp_avg"], states["exp_avg_sq"]]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())


def rank(shards: str, output: str, rounds: int) -> None:
    """One rank: every contender in turn; rank 0 writes seconds a step, and MB held by each stage."""
    import torch

    from pretrain.distributed.world import init_distributed
    from pretrain.gan.networks.build import channels_last
    from pretrain.gan.trainer import GanTrainer

    torch.set_num_threads(1)
    with init_distributed() as world:
        steps: dict[str, Callable[[], object]] = {
            "DDP": ddp_step(CASE, shards, world, lambda network: network),
            "DDP, channels last": ddp_step(CASE, shards, world, channels_last),
        }
        trainers = {f"stage {stage}": GanTrainer(config(CASE, shards, stage), world) for stage in STAGES}
        for name, trainer in trainers.items():
            numbers = iter(range(1_000_000))
            steps[name] = lambda t=trainer, n=numbers: t.step(next(n))  # type: ignore[misc]

        def turn(step: Callable[[], object]) -> float:
            torch.distributed.barrier()
            return median(timed(step) for _ in range(STEPS_A_TURN))

        for step in steps.values():
            for _ in range(WARM_UP):
                step()
        found = take_turns({name: lambda s=step: turn(s) for name, step in steps.items()}, rounds)  # type: ignore[misc]
        memory = {name: held(trainer) / 1e6 for name, trainer in trainers.items()}
        if world.is_first:
            Path(output).write_text(json.dumps({"seconds": found, "memory": memory}))


def measure(quick: bool) -> Report:
    """Both numbers of processes, one after the other."""
    rounds = 2 if quick else 25
    rows, targets = [], []
    with tempfile.TemporaryDirectory() as name:
        shards, output = write_shards(Path(name), CASE.size), str(Path(name) / "found.json")
        for size, bounds in TARGETS.items():
            command = [sys.executable, __file__, "--rank", shards, output, str(rounds)]
            subprocess.run([sys.executable, "-c", SPAWN, str(size), *command], check=True)
            found = json.loads(Path(output).read_text())
            seconds, memory = found["seconds"], found["memory"]
            for contender, each in seconds.items():
                rates = [CASE.batch / second for second in each]
                share = ratio(seconds["DDP"], each)
                bytes_held = f"{memory[contender]:.2f}" if contender in memory else ""
                rows.append((str(size), contender, spread(rates, ",.0f"), f"{share:.3f}", bytes_held))
            for stage, bound in bounds.items():
                share = ratio(seconds["DDP"], seconds[f"stage {stage}"])
                targets.append(Target(f"{size} processes: images/s, stage {stage} / DDP", share, bound))
    question = (
        f"A {CASE.name} at {CASE.size} x {CASE.size} with {CASE.channels} channels at full size, batch "
        f"{CASE.batch}, hinge loss, batch and spectral normalisation, fp32; both networks at the same stage, "
        f"one thread a process. Median (middle half) of {rounds} turns of {STEPS_A_TURN} steps. MB: what a "
        "rank holds between steps of weights, Adam's states and the moving average."
    )
    header = ("processes", "contender", "images/s", "this / DDP", "MB")
    return Report("gan", question, [Table(header, rows)], targets)


def write_shards(folder: Path, size: int) -> str:
    """Shards of noise."""
    import numpy as np
    from PIL import Image

    from data_tools.images.builder import ImageBuildOptions, build_images

    random = np.random.default_rng(0)
    pictures, shards = folder / "pictures", folder / "shards"
    pictures.mkdir()
    for number in range(IMAGES):
        pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number:04d}.png")
    build_images(ImageBuildOptions((str(pictures),), str(shards), size, 3, workers=1))
    return str(shards)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main(measure, __doc__)
