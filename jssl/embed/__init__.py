"""Features of many pictures in a file, and search among them.

`python -m jssl.embed` is the command. `compute` makes the file, `formats` reads
and writes it, `nearest` finds neighbours and near-duplicates in it, and
`search` shows them.
"""
