"""One chain: the update rule, losses, metrics, and the model given back as it was."""
