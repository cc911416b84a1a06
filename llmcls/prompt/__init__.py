"""From an example to tokens: templates, the model's frame around them, and the one encoder."""
