"""A smaller or faster model out of a larger one, measured on the very requests that a job asks.

    sequences.py    what is measured on: a job's prompts with the model's own answers
    checkpoint.py   opening a Hugging Face checkpoint with torch, and writing one that unmodified vLLM loads
    divergence.py   how far a changed model's next token is from the source's
    formats.py      8 and 4 bits: which there are, and what a weight of each costs
    sensitivity.py  how much the precision of each group of layers matters; precision.py chooses it from that
    quantise.py     a checkpoint in the chosen precisions; smoothing.py, gptq.py and rounding.py are its means
    prune.py        narrower FFNs, fewer heads, fewer layers: `narrow.py`, `surgeon.py` says what costs least, `heal.py`
    trim.py         without the tokens that a job does not need: `vocabulary.py` is the tokenizer's part

Everything here goes from one folder to another and knows neither jobs nor stores; `ops` chooses the documents, judges
the result by the job's own tasks, and publishes it.
"""
