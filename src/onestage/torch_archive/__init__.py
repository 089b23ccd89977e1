"""Programs of torch.export as files: their archive, and what they may hold to be loaded. Needs no torch."""
