"""Dask arrays and dataframes: their partitions, and computations on their workers."""
