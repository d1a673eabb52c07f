"""STARS inference engine: data, model, training, export, retrieval and serving."""

__version__ = "0.1.0"
