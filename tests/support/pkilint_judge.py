"""A long-lived process of pkilint, run by the interpreter that has it: one base64 certificate a line in, its findings
as one JSON list a line out. Loading pkilint costs a second, judging a certificate a few milliseconds.
"""

import json
import sys

from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity


def main() -> None:
    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    reader = loader.RFC5280CertificateDocumentLoader()
    for line in sys.stdin:
        document = reader.load_b64_document(line)
        found = [
            f"{one.finding.severity.name} {one.finding.code}: {one.message}"
            for result in validator.validate(document.root)
            for one in result.finding_descriptions
            if one.finding.severity <= ValidationFindingSeverity.WARNING
        ]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
