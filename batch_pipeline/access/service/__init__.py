"""The service that holds the privilege: verifies who asks, applies the policy, submits, records, and shows what ran."""
