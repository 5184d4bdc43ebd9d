"""The arithmetic of layers, in plain PyTorch and in Triton."""
