"""From what a scientist writes to what will be sent: steps, wiring, samples, fingerprints, plan. Values only."""
