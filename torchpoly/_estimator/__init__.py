"""The estimator, from its parameters to a problem and back."""
