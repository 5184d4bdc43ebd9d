"""Decoding code that is not ours: recorded from outside, and watched for rows that are mixed up."""
