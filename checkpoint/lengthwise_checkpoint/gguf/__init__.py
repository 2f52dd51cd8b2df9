"""GGUF, llama.cpp's format: one file (or several parts) with weights, configuration and tokenizer.

`header` reads what is not weights, `model` puts parts together, and the rest says it as the files
of a checkpoint folder would: `config` (config.json), `generation` (generation_config.json),
`tokenizer` (tokenizer.json and tokenizer_config.json). The weights are read by
`lengthwise_engine.models.gguf_file`.
"""
