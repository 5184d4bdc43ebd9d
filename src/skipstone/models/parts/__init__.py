"""What models are composed of: linear maps, norms, attention, MLP; and the decoder of them."""
