"""TLS that asks for a client certificate, accepts any, and hands it on (hub specification 2.4)."""
