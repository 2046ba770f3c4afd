"""Algorithm 1: the feature extraction phase, then the latent-shaping phase."""
