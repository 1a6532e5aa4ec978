"""From a folder as it is to a folder as asked: plans a launch, finds missing runs, starts processes, shows progress.

Imports `plan` and the packages below it; names `execute` by text, for processes of their own.
Read first: `prepare`, `reconcile`, then `driver`, and `local`, the engine that it calls.
"""
