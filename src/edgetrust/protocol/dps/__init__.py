"""The provisioning service's wire formats: names, topics, bodies, errors (hub specification 13 to 15)."""
