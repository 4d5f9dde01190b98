"""The training half's engine room: recipes, transformers' Trainer, and what it needs to know about BitMar."""
