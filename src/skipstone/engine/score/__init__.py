"""From final states to scores, and to likelihoods."""
