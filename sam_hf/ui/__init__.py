"""The app: a page to segment pictures on, and the API behind it. Needs `pip install "sam_hf[app]"`."""
