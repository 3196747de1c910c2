"""Features of many pictures in a file, and search among them.

`python -m jssl.embed` is the command. `compute` computes the features,
`formats` reads and writes files of them, `nearest` finds neighbours and
near-duplicates, and `search` shows these.
"""
