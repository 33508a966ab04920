"""Training losses: callables of prediction, target and the network's input."""
