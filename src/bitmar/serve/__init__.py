"""The model over HTTP, in OpenAI's words and its own, and a page to try it: `bitmar serve`."""
