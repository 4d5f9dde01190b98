"""Pictures of what goes on in a model: one file gathers the numbers of a picture, another one draws them."""
