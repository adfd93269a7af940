"""Free text to masks on any SAM checkpoint: a CLIP beside it, and the ways to bring the two together."""
