"""The mathematics and bookkeeping of training.  The loops are flat scripts, train_vae.py and train_unet.py."""
