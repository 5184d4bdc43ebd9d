"""The kinds of broken input, a module for each part of the product that reads any."""
