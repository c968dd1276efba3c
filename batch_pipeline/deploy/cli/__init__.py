"""The verb of deployment."""
