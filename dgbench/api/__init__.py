"""Train, sweep and check from notebooks and scripts, as the commands do: the same folders, run ids and numbers.

Each function reads its keyword arguments as a command reads its flags (`options`), and then calls the functions that
the command calls. `train` works in this process; `sweep` starts `dgbench launch` as a process of its own.

May import all but the commands, which stand beside it.
Read first: `train`, then `options`.
"""
