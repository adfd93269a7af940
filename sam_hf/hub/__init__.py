"""Between this package and the Hugging Face Hub."""
