"""What differs between model families under one training loop: the module, the batch, the losses."""
