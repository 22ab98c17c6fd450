"""What GAN training is made of; `trainer.py` puts it together."""
