"""Training: losses, simulated prompts, the loss-returning module, a resumable trainer, recipes.

Nothing is imported here, so that `sam_hf.training.losses` does not pull in accelerate or open_clip.
"""
