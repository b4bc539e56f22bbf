"""MQTT 3.1.1 as bytes in, packets out, for both roles. What a topic means is not known here."""
