"""Grid search that trains and scores candidates from the Gram matrices of cross-validation splits."""
