"""The training loop of every kind: session, trainer protocol, step synchronisation, schedule, data-parallel
trainer. What only transformers need is in `megatron`."""
