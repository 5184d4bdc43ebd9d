"""Finds how kernels are cut best on a card; what it finds is written into the kernels by hand."""
