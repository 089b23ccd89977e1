"""What the hardware is and does: device, number format, memory, threads."""
