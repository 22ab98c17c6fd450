"""What GPT and BERT share on megatron-core: pipeline model, trainer, optimizer, DDP, sharding, loading."""
