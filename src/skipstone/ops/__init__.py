"""The arithmetic of a step, in plain PyTorch. Fast versions keep these signatures."""
