"""The KL autoencoder: 512x512x3 pictures to 64x64x4 latents and back.  `from ldm.vae import VAE, VAEConfig`."""

from ldm.vae.vae import VAE, Posterior, VAEConfig

__all__ = ["VAE", "Posterior", "VAEConfig"]
