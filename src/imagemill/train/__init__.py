"""Training: one loop for the base model, for fine-tuning and for students.

`launch` starts processes and imports no torch; `loop.fit` is the loop; `worker` is what a process
of `torch.distributed.run` executes.
"""
