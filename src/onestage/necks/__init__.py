"""Necks: feature maps in, as many feature maps out, which have seen each other."""

from onestage.necks.top_down import TopDown

__all__ = ["TopDown"]
