"""One file an endpoint: the protocol in, the answer out."""
