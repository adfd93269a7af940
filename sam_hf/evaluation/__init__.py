"""Measuring: the protocols, the baselines beside them, and the reports made of them."""
