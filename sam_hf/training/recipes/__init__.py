"""Written-down training sequences, one module each."""
