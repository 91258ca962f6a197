"""How a run reaches the disk: requests, the run, one writer per chain, checkpoints, results."""
