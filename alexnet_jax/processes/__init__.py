"""The processes that train one net together: how they start, agree, and end.

With one process nothing of this runs. With several, in the order in which things happen:

1. `process_flags` and `starting.launchers` detect the place of this process in its group, a
   `launch.Launch`, from flags or from the environment variables of Slurm, Kubernetes and others.
2. `joining.join` encloses all that the program does. `starting.rendezvous` waits until every
   process has started, and `connection` then starts JAX's coordination service in process 0.
3. The service stores `keys`, the values that the processes exchange. On them are built the methods
   of a `group.Group` (`several.Several`): barriers, broadcasts, and the comparison of versions and
   settings. All processes call them in the same order.
4. In training, `turns.Turns` counts steps and batches. By its `agreement` all processes act at the
   same turn on what one of them has noticed: a signal, a time to save, an unreadable batch.
5. `monitor.Monitor`, a thread in each process, publishes a heartbeat and ends its process when
   another one has failed, is lost or hangs; its docstring lists all time limits.
6. At the end all meet at a barrier. An exception becomes one of `errors.Failure`, which every
   process prints, and all end with its exit code.

docs/clusters.md is the same for users: commands, exit codes, and what must be shared.
"""
