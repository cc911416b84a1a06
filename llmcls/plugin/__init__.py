"""How things get into llmcls: hook specifications, the plugin manager, and the catalogs made from them."""
