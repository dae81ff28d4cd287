"""vLLM behind one door: the `Engine` protocol, the fake engine, the real one. No vLLM type leaves this folder."""
