"""score_lab: score-based and flow-matching generative models on one network, any Gaussian path, any sampler."""
