"""DeepSpeed's settings for both engines, from the config."""

from dataclasses import dataclass
from typing import Any

from pretrain.config.sections import GanConfig


@dataclass(frozen=True)
class EngineSettings:
    """Settings of one network's engine."""

    stage: int
    offload: bool
    bf16: bool
    micro_size: int
    micro_batches: int
    world_size: int
    lr: float
    betas: tuple[float, float]
    eps: float
    clip_grad: float

    def deepspeed(self, numbers: int) -> dict[str, Any]:
        """DeepSpeed's own config for a network of `numbers` weights."""
        bucket = bucket_size(numbers)
        zero: dict[str, Any] = {
            "stage": self.stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "overlap_comm": False,
        }
        if self.stage == 3:
            zero |= {"stage3_param_persistence_threshold": 0, "sub_group_size": bucket}
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        config: dict[str, Any] = {
            "train_batch_size": self.micro_size * self.micro_batches * self.world_size,
            "train_micro_batch_size_per_gpu": self.micro_size,
            "gradient_accumulation_steps": self.micro_batches,
            "gradient_clipping": self.clip_grad,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31 - 1,
            "timers": {"throughput": {"enabled": False}},  # this timer waits for the GPU twice in every pass
        }
        if self.bf16:
            config["bf16"] = {"enabled": True, "check_grad_overflow": True}
            config["data_types"] = {"grad_accum_dtype": "fp32"}
            config["communication_data_type"] = "fp32"
        return config


def bucket_size(numbers: int) -> int:
    """Elements of the reduction buckets for a network of `numbers` weights.

    Hardly more than the network has, because buffers of this size are allocated; DeepSpeed wants even
    numbers.
    """
    return -(-numbers // 64) * 64


def micro_size(config: GanConfig, world_size: int) -> int:
    """Images per forward pass of one process: its whole share, unless the config says otherwise."""
    return config.batch.micro_size or config.batch.global_size // world_size


def engine_settings(config: GanConfig, world_size: int) -> tuple[EngineSettings, EngineSettings]:
    """Settings of the generator and of the discriminator."""
    optimizer, parallel = config.optimizer, config.parallel
    micro = micro_size(config, world_size)

    def settings(stage: int, lr: float) -> EngineSettings:
        return EngineSettings(
            stage=stage,
            offload=parallel.offload_optimizer,
            bf16=config.precision == "bf16",
            micro_size=micro,
            micro_batches=config.batch.global_size // (micro * world_size),
            world_size=world_size,
            lr=lr,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            clip_grad=optimizer.clip_grad,
        )

    generator = settings(parallel.generator_stage, optimizer.lr)
    return generator, settings(parallel.discriminator_stage, optimizer.discriminator_lr or optimizer.lr)
