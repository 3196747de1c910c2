"""Features of many pictures in a file, and search among them.

`python -m jssl.embed` is the command. `compute` computes the features,
`formats` reads and writes files of them, and `search` finds and shows
neighbours and near-duplicates.
"""
