"""Tasks of lm-evaluation-harness (Gao et al., EleutherAI) on our own checkpoints, offline."""
