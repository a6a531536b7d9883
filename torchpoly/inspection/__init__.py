"""Questions to a finished fit."""

from torchpoly.inspection._jackknife import jackknife_interval

__all__ = ["jackknife_interval"]
