"""Images a second and memory of GANs on one GPU: our trainer on DeepSpeed, against a plain loop.

    python benchmarks/gpu_gan.py                # a DCGAN and the ResNet of SNGAN at 64 x 64
    python benchmarks/gpu_gan.py --quick        # very small ones, to see that it works; on a CPU too

The contenders are those of gan.py: a whole `GanTrainer.step`, and the loop that a user would write, with its
images channels last too. In bf16 ours has fp32 master weights, the loop runs under autocast. What is fp32 has
its convolutions in TF32, as is torch's default, for all of them.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from gan import Case, config, ddp_step, write_shards
from gpu_turns import device_name, require_gpu, serve, turns
from measure import Report, Table, Target, main, ratio

CASES = (
    Case("DCGAN", "dcgan", size=64, channels=64, batch=256),
    Case("ResNet", "resnet", size=64, channels=64, batch=64),
)
QUICK = (
    Case("DCGAN", "dcgan", size=16, channels=4, batch=8),
    Case("ResNet", "resnet", size=16, channels=4, batch=8),
)
RIVALS = {"fp32": "plain, fp32", "bf16": "plain, bf16"}
OURS = ("stage 0, fp32", "stage 2, fp32", "stage 2, bf16")


def make_step(case: Case, contender: str, shards: str, stack: ExitStack) -> Callable[[], object]:
    """A contender's step, in a world of one."""
    from pretrain.distributed.launcher import RankInfo
    from pretrain.distributed.world import init_distributed
    from pretrain.gan.networks.build import channels_last
    from pretrain.gan.trainer import GanTrainer

    world = stack.enter_context(init_distributed(RankInfo(0, 1, 0, "alone")))
    who, precision = contender.split(", ")
    if who == "plain":
        return ddp_step(case, shards, world, channels_last, autocast=precision == "bf16")
    trainer = GanTrainer(config(case, shards, int(who.removeprefix("stage ")), precision), world)
    numbers = iter(range(1_000_000))
    return lambda: trainer.step(next(numbers))


def contend(output: str, contender: str, case_as_json: str, shards: str, steps: str) -> None:
    """A contender's process."""
    case = Case(**json.loads(case_as_json))
    serve(lambda stack: make_step(case, contender, shards, stack), int(steps), Path(output))


def measure(quick: bool) -> Report:
    """Every case."""
    require_gpu(quick)
    rounds, steps = (1, 2) if quick else (3, 50)
    cases = QUICK if quick else CASES
    rows, targets = [], []
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            shards = write_shards(Path(name), case.size)
            arguments = json.dumps(asdict(case)), shards, str(steps)
            found = turns(__file__, (*RIVALS.values(), *OURS), rounds, *arguments)
        seconds = {contender: [each["seconds"] for each in turn] for contender, turn in found.items()}
        for contender, turn in found.items():
            rival = RIVALS[contender.split(", ")[1]]
            share = ratio(seconds[rival], seconds[contender])
            rate = f"{case.batch / median(seconds[contender]):,.0f}"
            memory = f"{max(each['memory'] for each in turn) / 1e9:.2f}"
            rows.append((case.name, contender, rate, f"{share:.3f}", memory))
            if contender in OURS:
                targets.append(Target(f"{case.name}: images/s, {contender} / {rival}", share, 1.0))
    shapes = [f"{each.name}: {each.channels} channels, batch {each.batch}" for each in cases]
    question = (
        f"Training GANs at {cases[0].size} x {cases[0].size} on one {device_name()}; {'; '.join(shapes)}; "
        "hinge loss, batch and spectral normalisation. Stages are those of DeepSpeed's ZeRO, for both "
        f"networks. GB: the most that torch had allocated. Medians of {rounds} processes of {steps} steps; "
        "the ratio is to the plain loop of the same precision."
    )
    header = ("GAN", "contender", "images/s", "this / plain", "GB")
    return Report("gpu-gan", question, [Table(header, rows)], targets)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        contend(*sys.argv[2:])
    else:
        main(measure, __doc__)
