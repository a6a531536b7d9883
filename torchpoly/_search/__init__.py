"""Grid search from the Gram matrices of splits."""
