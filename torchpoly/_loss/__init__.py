"""Losses of the rows."""
