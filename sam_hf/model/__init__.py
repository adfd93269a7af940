"""The network and its processor: flat siblings, which `save_pretrained` can copy to the Hub as remote code."""
