"""DeepSpeed's settings for both engines, from the config."""

from typing import Any

from pretrain.config.sections import GanConfig


def deepspeed_config(config: GanConfig, stage: int, world_size: int, numbers: int) -> dict[str, Any]:
    """DeepSpeed's own config for a network of `numbers` weights at a ZeRO stage."""
    bucket, micro = bucket_size(numbers), micro_size(config, world_size)
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": False,
    }
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0, "sub_group_size": bucket}
    if config.parallel.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    settings: dict[str, Any] = {
        "train_batch_size": config.batch.global_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": micro_batches(config, world_size),
        "gradient_clipping": config.optimizer.clip_grad,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31 - 1,
        "timers": {"throughput": {"enabled": False}},  # this timer waits for the GPU twice in every pass
    }
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"
    return settings


def bucket_size(numbers: int) -> int:
    """Elements of the reduction buckets for a network of `numbers` weights.

    Hardly more than the network has, because buffers of this size are allocated; DeepSpeed wants even
    numbers.
    """
    return -(-numbers // 64) * 64


def micro_size(config: GanConfig, world_size: int) -> int:
    """Images per forward pass of one process: its whole share, unless the config says otherwise."""
    return config.batch.micro_size or config.batch.global_size // world_size


def micro_batches(config: GanConfig, world_size: int) -> int:
    """Micro-batches of an update on one process."""
    return config.batch.global_size // (micro_size(config, world_size) * world_size)
