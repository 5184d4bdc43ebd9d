"""The arithmetic of scores, commits and skips, in plain PyTorch and in Triton."""
