"""Tests of faults run beside each other, as all tests do: on one thread each."""

from __future__ import annotations

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
