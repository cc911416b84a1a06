"""From a data specification to examples: the reader contract, columns, labels and splits."""
