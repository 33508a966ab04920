"""What training minimises: each loss a callable of prediction, target and the network's input."""
