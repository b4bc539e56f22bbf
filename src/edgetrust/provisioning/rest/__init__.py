"""The provisioning service's HTTPS surface: devices, services, CA certificates. One file per noun."""
