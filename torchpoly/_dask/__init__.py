"""Dask collections."""
