"""From a model to answers in original pixels: one image with many prompts, and the embeddings that are kept."""
