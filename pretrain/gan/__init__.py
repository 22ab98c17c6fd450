"""What a GAN's training is made of; `gan_trainer.py` puts it together."""
