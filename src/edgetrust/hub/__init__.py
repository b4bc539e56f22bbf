"""The hub: registry, device connections, messages and the service surface of an IoT-Hub-compatible hub."""
