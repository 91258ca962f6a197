"""The plan of a call and its execution: chains in turn, in worker processes, or on somebody's executor."""
