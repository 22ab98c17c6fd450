"""`pretrain quickstart`: three small models from embedded data to scores, with the commands a user has."""
