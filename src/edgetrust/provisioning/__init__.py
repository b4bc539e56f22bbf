"""The provisioning service: who is enrolled, to which hub a device goes, and telling that hub."""
