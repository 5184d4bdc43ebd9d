"""The arithmetic of a step: plain references, and kernels with the same signatures."""
