"""Files, pipelines and the command line: what stands around the engine."""
