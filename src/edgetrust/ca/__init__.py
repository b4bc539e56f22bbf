"""The certificate authority: who may have which certificate, issuing, EST, revocation, rotation of CAs.

An enrolment goes: request -> facts -> policy (a decision that can be read) -> issue -> lint -> store with its audit
record -> answer. A certificate that is not stored is not sent.
"""
