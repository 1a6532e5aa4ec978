"""Read and write sweep folders of DomainBed.

A run is a folder `<root>/<any name>/`. Its `results.jsonl` holds a JSON object for each evaluation, with `args`,
`hparams`, `step`, `env{i}_in_acc` and `env{i}_out_acc`. A file `done` beside it says that the run is complete.
`folder` knows these files and writes them; `reader` makes `Results` of a sweep's folder.
"""
