"""GAN losses: one file each."""
