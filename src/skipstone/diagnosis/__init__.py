"""Says why two runs part. Rules read traces and ask for experiments; no torch here."""
