"""The training loop of every kind: session, trainer protocol, step sync, schedule, data-parallel trainer.
What only transformers need is in `megatron`."""
