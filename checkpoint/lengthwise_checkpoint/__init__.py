"""What a checkpoint's files say, read once for routers and workers: no weights, no torch.

`families` and `architectures` read config.json, `generation` the end-of-sequence ids and sampling
defaults, `tokenizer` all that belongs to the text; `hub` finds the files.
"""
