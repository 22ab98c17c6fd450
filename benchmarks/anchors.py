"""Published times of a training step beside what `pretrain plan` says of the same model and layout.

    python benchmarks/anchors.py [--quick]

Sources: A is table 5 ("present work") of Korthikanti et al. 2022 (arXiv:2205.05198), its models those of
table 3; B is table 1 of Narayanan et al. 2021 (arXiv:2104.04473), whose TFLOP/s are turned into seconds by
the paper's own formula; C is the strong scaling of GPT-3 in the README of NVIDIA/Megatron-LM (2024), whose
MFU is turned into seconds by our FLOPs and NVIDIA's peak. What a source does not say (micro-batches in B, the
layout in C) is ours.
"""

from dataclasses import dataclass

from measure import Report, Table, main

from pretrain.config.hardware import make_cluster
from pretrain.config.sections import GptConfig
from pretrain.gpt.spec import GptSpec
from pretrain.megatron.flops import flops_per_token
from pretrain.plan.text_plan import plan_text


@dataclass(frozen=True)
class Anchor:
    """A published run. One of `seconds`, `teraflops` (of a GPU) and `mfu` is what was published."""

    source: str
    name: str
    gpu: str
    gpus: int
    layers: int
    hidden: int
    heads: int
    batch: int
    tensor: int = 1
    pipeline: int = 1
    virtual: int | None = None
    micro: int = 1
    context: int = 2048
    vocabulary: int = 51_200
    seconds: float = 0.0
    teraflops: float = 0.0
    mfu: float = 0.0

    def config(self) -> GptConfig:
        """The run in our words: selective recomputation (A, C) is fused attention here."""
        return GptConfig.model_validate(
            {
                "run": {"dir": "unused", "steps": 1},
                "model": {
                    "kind": "gpt",
                    "num_layers": self.layers,
                    "hidden_size": self.hidden,
                    "num_attention_heads": self.heads,
                },
                "batch": {
                    "global_size": self.batch,
                    "micro_size": self.micro,
                    "sequence_length": self.context,
                },
                "parallel": {
                    "tensor": self.tensor,
                    "pipeline": self.pipeline,
                    "virtual_pipeline": self.virtual,
                    "sequence": self.tensor > 1 and self.source != "B",
                    "distributed_optimizer": self.source == "C",
                    "recompute": "full" if self.source == "B" else "none",
                },
                "optimizer": {"lr": 1e-4},
                "data": {"train": "unused"},
                "precision": "bf16",
            }
        )

    def layout(self) -> str:
        """Such as TP8 PP8 VPP3."""
        sizes = {"TP": self.tensor, "PP": self.pipeline, "VPP": self.virtual or 1}
        sizes["DP"] = self.gpus // (self.tensor * self.pipeline)
        sequence = " SP" if self.config().parallel.sequence else ""
        return " ".join(f"{kind}{size}" for kind, size in sizes.items() if size > 1) + sequence

    def published(self) -> tuple[float, str]:
        """Seconds of a step, and the figure as it was published."""
        if self.seconds:
            return self.seconds, f"{self.seconds:.2f} s"
        tokens = self.batch * self.context
        if self.teraflops:
            again = 1 + self.context / (6 * self.hidden)
            again += self.vocabulary / (16 * self.layers * self.hidden)
            flops = 96 * tokens * self.layers * self.hidden**2 * again
            return flops / (self.gpus * self.teraflops * 1e12), f"{self.teraflops:.0f} TFLOP/s"
        flops = flops_per_token(self.config(), self.vocabulary, self.context) * tokens
        peak = make_cluster(self.gpu, self.gpus, None, None, None).peak("bf16")
        return flops / (self.gpus * self.mfu * peak), f"MFU {self.mfu:.0%}"


A100, H100, GPT3 = "a100-80g", "h100-80g", (96, 12_288, 96)
ANCHORS = (
    Anchor("A", "22B", A100, 8, 48, 6144, 64, 4, tensor=8, micro=4, seconds=1.10),
    Anchor("A", "175B", A100, 64, *GPT3, 64, tensor=8, pipeline=8, virtual=3, seconds=13.75),
    Anchor("A", "530B", A100, 280, 105, 20_480, 128, 280, tensor=8, pipeline=35, virtual=3, seconds=37.83),
    Anchor("A", "1T", A100, 512, 128, 25_600, 160, 512, tensor=8, pipeline=64, seconds=71.49),
    Anchor("B", "1.7B", A100, 32, 24, 2304, 24, 512, micro=4, teraflops=137),
    Anchor("B", "7.5B", A100, 128, 36, 4096, 32, 512, tensor=4, micro=4, teraflops=142),
    Anchor("B", "145.6B", A100, 1536, 80, 12_288, 96, 2304, tensor=8, pipeline=8, teraflops=148),
    Anchor("B", "1,008B", A100, 3072, 128, 25_600, 160, 3072, tensor=8, pipeline=64, teraflops=163),
    Anchor("C", "175B", H100, 96, *GPT3, 1152, 8, 12, 2, context=4096, vocabulary=131_072, mfu=0.47),
    Anchor("C", "175B", H100, 4608, *GPT3, 1152, 8, 8, 6, context=4096, vocabulary=131_072, mfu=0.42),
)


def measure(quick: bool) -> Report:
    """Plan each."""
    rows = []
    for anchor in ANCHORS[:1] if quick else ANCHORS:
        cluster = make_cluster(anchor.gpu, anchor.gpus, None, None, None)
        plan = plan_text(anchor.config(), anchor.vocabulary, cluster, GptSpec)
        seconds, figure = anchor.published()
        planned = plan.time.total
        gpus = f"{anchor.gpus:,} {anchor.gpu.partition('-')[0].upper()}"
        row = (
            anchor.source,
            anchor.name,
            gpus,
            anchor.layout(),
            str(anchor.micro),
            figure,
            f"{seconds:.2f}",
            f"{planned:.2f}",
        )
        rows.append((*row, f"{planned / seconds - 1:+.0%}", f"{plan.fullest.total / 1e9:.0f}"))
    header = ("source", "model", "GPUs", "layout", "micro", "published", "s", "plan, s", "error", "plan, GB")
    question = "Seconds of a step as published and as planned; nothing was fitted to these."
    return Report("anchors", question, [Table(header, rows)])


if __name__ == "__main__":
    main(measure, __doc__)
