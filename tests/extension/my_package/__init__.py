"""A researcher's own package: an objective, a sampler, a path and a config, one file each, none of them in score_lab."""
