"""Training: data to a sealed run directory, through TRL's SFTTrainer."""
