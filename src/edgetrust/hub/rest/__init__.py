"""The hub's HTTPS surface: what service SDKs, gateways and operators ask for. One file per noun."""
