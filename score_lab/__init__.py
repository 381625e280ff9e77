"""score_lab: score-based and flow-matching generative models on one network, any Gaussian path, any sampler.

    denoiser = score_lab.load("runs/x").denoiser
"""

__all__ = ["load"]


def __getattr__(name: str):
    """``load`` without importing the training room until it is asked for."""
    if name == "load":
        from score_lab.training import load

        return load
    raise AttributeError(f"module 'score_lab' has no attribute {name!r}; allowed: load, or a room such as score_lab.paths")
