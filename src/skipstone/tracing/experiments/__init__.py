"""Carries out the experiments that diagnosis asks for."""
