"""The mathematics and bookkeeping of training.  The loops themselves are flat scripts: scripts/train_vae.py, train_unet.py."""
