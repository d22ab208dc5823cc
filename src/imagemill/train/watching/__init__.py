"""What is written down of a training while it runs: norms, memory, energy, traces, TensorBoard.

`watch.Watch` is what the loop knows; `waiting` imports no torch.
"""
