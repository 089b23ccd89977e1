"""Prediction over collections of images too large for one machine, by Ray Data."""
