"""Plan a launch, compare it with a sweep's folder, and execute the runs that are missing.

`prepare` makes a `Sweep` of a request; `reconcile` holds what a sweep does; `driver` decides which run starts next and
judges those that ended, through the protocol `Engine` of `base`; `local` is the engine on this machine, over the
processes of `forkserver`. `consent`, `interrupts`, `progress` and `tidy` ask before acting, answer signals, show
progress, and remove files.
`launcher` chooses where that happens: by `machine` and `here` in this command, or by workers that a scheduler starts
(`pool`), such as `slurm`.

May import `plan` and the packages below it; names `execute` as text, for processes of its own.
Read first: `prepare`, `reconcile`, then `driver`, and `local`.
"""
