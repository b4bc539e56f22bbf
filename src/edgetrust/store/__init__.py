"""What must survive: the registry, sessions, queues, the event log, the gateway's copy of its scope, the audit trail.

SQL throughout, SQLite by default and PostgreSQL for more than one node; what people query is a column, never a blob.
"""
