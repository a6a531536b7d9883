"""The design matrix as a linear operator, and its Gram matrix."""
