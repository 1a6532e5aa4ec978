"""From a folder as it is to a folder as asked: finds missing runs, starts processes for them, shows progress.

Imports `plan` and the packages below it; names `execute` by text, for processes of their own.
Read first: `reconcile`, then `driver`, and `local`, the engine that it calls.
"""
