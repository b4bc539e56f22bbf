"""Bytes to messages and back: MQTT, SAS, IoT Hub names, REST shapes. Pure: no I/O, no clock, no asyncio."""
